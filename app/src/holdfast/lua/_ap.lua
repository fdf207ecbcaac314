-- Prepended to the scripts that write AP values. A version is '<epoch 8>.<ms 12><counter 4>.<origin>', see hlc.py.

-- Milliseconds of this node's clock.
local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Is version a older than version b? The head has a fixed width; origins are compared by bytes (Lua's < uses the locale).
local function older(a, b)
  local ha, hb = string.sub(a, 1, 25), string.sub(b, 1, 25)
  if ha ~= hb then return ha < hb end
  local n = math.min(#a, #b)
  for i = 26, n do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function version_ms(version)
  return tonumber(string.sub(version, 10, 21), 16)
end

-- The node's clock never falls behind a version it holds.
local function raise_hlc(state_key, hlc)
  local held = redis.call('HGET', state_key, 'hlc')
  if not held or held < hlc then redis.call('HSET', state_key, 'hlc', hlc) end
end

-- Last writer wins. Returns 'applied', 'same' or 'lost', and whether two writes met that did not know of each other
-- as far as can be told (prev: the version the write replaced at its origin; '' if none or not known), and what was held.
-- A held version that is replaces (a version of the future, see _apply.lua) loses whatever its size.
local function merge(key, version, kind, value, prev, replaces)
  local held = redis.call('HGET', key, 'ver')
  if held == version then return 'same', false, held end
  local met = held and held ~= prev and string.sub(held, 27) ~= string.sub(version, 27)
  if held and held ~= replaces and older(version, held) then return 'lost', met, held end
  redis.call('HSET', key, 'ver', version, 'k', kind, 'v', value)
  return 'applied', met, held
end
