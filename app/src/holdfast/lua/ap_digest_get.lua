#!lua flags=allow-oom
-- Divergence: a node's guard and the digests kept there. KEYS: guard, digests. Changes nothing; not guarded: the reader
-- judges. Returns {'OK', {guard's six fields}, {cycle, digest, ...}}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
return {'OK', g, redis.call('HGETALL', KEYS[2])}
