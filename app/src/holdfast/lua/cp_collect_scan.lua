#!lua flags=allow-oom
-- include _guard
-- Collection, on the zone's own node: one page of old CP tombstones. KEYS: guard, CP state. ARGV[7..9]: SCAN cursor,
-- COUNT, the grace in ms.
-- On a node that has never been collected the first call notes the time; nothing counts as old before the grace is over
-- since then: requests of programs that know no floor must have ended.
-- Returns {'OK', next cursor, locked batch ('' if none), tombstones seen on this page, {key, tag, ...} the old ones}.
local refusal = guard_refusal()
if refusal then return refusal end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local state = redis.call('HMGET', KEYS[2], 'batch', 'locked', 'since')
if not state[3] then
  state[3] = string.format('%d', now)
  redis.call('HSET', KEYS[2], 'since', state[3])
end
local limit = string.format('%016x', math.max(0, now - tonumber(ARGV[9])))
local early = now < tonumber(state[3]) + tonumber(ARGV[9])
local page = redis.call('SCAN', ARGV[7], 'MATCH', 'cp:*', 'COUNT', ARGV[8])
local out, seen = {}, 0
for _, key in ipairs(page[2]) do
  local r = redis.call('HMGET', key, 't', 'k')
  if r[2] == 'd' then
    seen = seen + 1
    -- A tag is '<epoch 8>.<counter 16>.<writer>'; the counter is milliseconds, or small if an old program made it.
    if not early and string.sub(r[1], 10, 25) <= limit then
      out[#out + 1] = string.sub(key, 4)
      out[#out + 1] = r[1]
    end
  end
end
return {'OK', page[1], state[2] and state[1] or '', seen, out}
