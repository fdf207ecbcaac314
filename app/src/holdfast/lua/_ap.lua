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

-- Which of two contents under one version wins, on every node alike: the larger rank. A tombstone is above every value, so
-- that no delete comes undone; of two values the one with the larger SHA-1 stays. divergence.rank is the same.
local function rank(kind, value)
  return (kind == 'd' and '1' or '0') .. redis.sha1hex(kind .. '\n' .. value)
end

-- The field rep of a value: the versions of the future (at most 32, the largest) that an origin has written anew, one after
-- the other with a blank between. They lose whatever their size and are not parked any more. A list of names and not a
-- range: the origin may have minted others in between since, which have not been replaced.
local MOST_REPLACED = 32

local function names(list, version)
  return list ~= '' and string.find(' ' .. list .. ' ', ' ' .. version .. ' ', 1, true) ~= nil
end

-- Note on the value of key that the versions in more (a list as above) have been replaced; held: the field as it is.
-- Removes them where they are parked. Returns the list now.
local function note_replaced(key, held, more, parked_key)
  local all, known = {}, {}
  for version in string.gmatch(held .. ' ' .. more, '%S+') do
    if not known[version] then all[#all + 1] = version end
    known[version] = true
  end
  table.sort(all, function(a, b) return older(b, a) end)
  for i = #all, MOST_REPLACED + 1, -1 do all[i] = nil end
  local list = table.concat(all, ' ')
  if list ~= held then redis.call('HSET', key, 'rep', list) end
  for version in string.gmatch(more, '%S+') do
    redis.call('HDEL', parked_key, version .. '|' .. string.sub(key, 4))
  end
  return list
end

-- Last writer wins. Returns 'applied', 'same', 'lost' or 'twin' (the version was held with another content, which lost or
-- won by its rank: must never happen), and whether two writes met that did not know of each other as far as can be told
-- (prev: the version the write replaced at its origin; '' if none or not known), and what was held.
-- replaces: versions of the future that the entry replaced, a list as above, '' for none.
local function merge(key, version, kind, value, prev, replaces, parked_key)
  local h = redis.call('HMGET', key, 'ver', 'rep')
  local held, replaced = h[1], h[2] or ''
  if replaces ~= '' then replaced = note_replaced(key, replaced, replaces, parked_key) end
  if held == version then
    local c = redis.call('HMGET', key, 'k', 'v')
    if c[1] == kind and c[2] == value then return 'same', false, held end
    if not c[1] or not c[2] or rank(kind, value) > rank(c[1], c[2]) then
      redis.call('HSET', key, 'k', kind, 'v', value)
    end
    return 'twin', false, held
  end
  local met = held and held ~= prev and string.sub(held, 27) ~= string.sub(version, 27)
  if names(replaced, version) or (held and not names(replaced, held) and older(version, held)) then
    return 'lost', met, held
  end
  redis.call('HSET', key, 'ver', version, 'k', kind, 'v', value)
  return 'applied', met, held
end
