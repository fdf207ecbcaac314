#!lua flags=allow-oom
-- include _guard
-- include _ap
-- AP collection, on any node: one page of old tombstones. KEYS: guard, AP state. ARGV[7..9]: SCAN cursor, COUNT, the
-- grace in ms.
-- On a node that has never been collected the first call notes the time; nothing counts as old before the grace is over
-- since then: copies by programs that know no marks must have ended.
-- Returns {'OK', next cursor, tombstones seen on this page, {key, version, ...} the old ones}.
local refusal = guard_refusal()
if refusal then return refusal end
local now, grace = now_ms(), tonumber(ARGV[9])
local since = redis.call('HGET', KEYS[2], 'since')
if not since then
  since = string.format('%d', now)
  redis.call('HSET', KEYS[2], 'since', since)
end
local early = now < tonumber(since) + grace
local page = redis.call('SCAN', ARGV[7], 'MATCH', 'ap:*', 'COUNT', ARGV[8])
local out, seen = {}, 0
for _, key in ipairs(page[2]) do
  local r = redis.call('HMGET', key, 'ver', 'k')
  if r[2] == 'd' then
    seen = seen + 1
    if not early and version_ms(r[1]) <= now - grace then
      out[#out + 1] = string.sub(key, 4)
      out[#out + 1] = r[1]
    end
  end
end
return {'OK', page[1], seen, out}
