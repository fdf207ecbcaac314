#!lua
-- include _guard
-- include _ap
-- Apply parked entries whose time has come. KEYS: guard, AP state, parked. ARGV[7..9]: largest drift in ms, HSCAN
-- cursor, COUNT. Touches ap:* keys by name (one server, no cluster). Returns {'OK', next cursor, number applied}.
local refusal = guard_refusal()
if refusal then return refusal end
local limit = now_ms() + tonumber(ARGV[7])
local page = redis.call('HSCAN', KEYS[3], ARGV[8], 'COUNT', ARGV[9])
local done = 0
for i = 1, #page[2], 2 do
  local bar = string.find(page[2][i], '|', 1, true)
  local version, key = string.sub(page[2][i], 1, bar - 1), string.sub(page[2][i], bar + 1)
  if version_ms(version) <= limit then
    local entry = cmsgpack.unpack(page[2][i + 1])
    merge('ap:' .. key, version, entry[1], entry[2], entry[3], entry[4] or '', KEYS[3])
    raise_hlc(KEYS[2], string.sub(version, 10, 25))
    redis.call('HDEL', KEYS[3], page[2][i])
    done = done + 1
  end
end
return {'OK', page[1], done}
