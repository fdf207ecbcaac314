#!lua flags=allow-oom
-- What `holdfast repair` looks at. KEYS: guard, lease, CP state. Changes nothing; declared as writing so that a replica refuses.
-- Returns {'OK', {guard's six fields}, number of keys other than these two, the server's run id, the
-- floor of CP collection ('' for none), the guard's history ('' for none), '1' if it was marked for a promotion and never
-- promoted (region_move)}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local others = redis.call('DBSIZE') - redis.call('EXISTS', KEYS[1], KEYS[2])
return {'OK', g, others, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'),
  redis.call('HGET', KEYS[3], 'floor') or '', redis.call('HGET', KEYS[1], 'history') or '',
  redis.call('HGET', KEYS[1], 'marked') or ''}
