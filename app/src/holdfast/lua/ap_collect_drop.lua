#!lua flags=allow-oom
-- include _guard
-- AP collection: remove the tombstones that still have exactly the given version. KEYS: guard, AP state, then the value's
-- key of each. ARGV[7]: the batch's mark, which this node must have; ARGV[8...]: the versions.
-- Returns {'OK', number removed} or {'LATE', mark}.
local refusal = guard_refusal()
if refusal then return refusal end
local st = redis.call('HMGET', KEYS[2], 'mark', 'done')
if not st[1] or tonumber(st[1]) < tonumber(ARGV[7]) then return {'LATE', st[1] or '0'} end
if not st[2] or tonumber(st[2]) < tonumber(ARGV[7]) then redis.call('HSET', KEYS[2], 'done', ARGV[7]) end
local removed = 0
for i = 3, #KEYS do
  local r = redis.call('HMGET', KEYS[i], 'ver', 'k')
  if r[1] == ARGV[5 + i] and r[2] == 'd' then
    redis.call('HDEL', KEYS[i], 'ver', 'k', 'v')
    removed = removed + 1
  end
end
return {'OK', removed}
