#!lua flags=allow-oom
-- The marks of AP collection on any node (ap_collect.py). KEYS: guard, AP state. Changes nothing; not guarded: the caller
-- judges. Returns {'OK', {guard's six fields}, mark, mark of the last batch that removed something here, floor}; '0' and ''
-- for none.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local st = redis.call('HMGET', KEYS[2], 'mark', 'done', 'floor')
return {'OK', g, st[1] or '0', st[2] or '0', st[3] or ''}
