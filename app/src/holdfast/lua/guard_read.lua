#!lua flags=allow-oom
-- The node's guard as it is. KEYS[1] guard. Returns {'OK', state, region, node, region epoch, membership epoch,
-- incarnation, the server's run id, the run id that was confirmed}, empty texts if there is none. Declared as writing so that
-- a replica refuses.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
g[7] = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
g[8] = redis.call('HGET', KEYS[1], 'confirmed') or ''
return {'OK', unpack(g)}
