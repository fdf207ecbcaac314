#!lua
-- Replace the guard in one step. KEYS: guard, peers, CP state. ARGV[1..6] the guard expected (state '' for none: then the node
-- must hold nothing at all), ARGV[7..12] the new one: state, region, node, region epoch, membership epoch, incarnation.
-- A node that becomes *recovering* forgets how far it had applied the others' AP writes: they are merged in full again.
-- A collection that had begun on it ends; the fresh incarnation is the batch under which the repair itself vouches.
-- ARGV[13]: the region epoch from which on the data's history was cut back (region_adopt.py), 0 for none; it only grows.
-- Whatever a backup had said of its data is over. Returns {'OK'}, or the real guard in {'GUARD', ...}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
local same = true
for i = 1, 6 do
  if not g[i] then g[i] = '' end
  if g[i] ~= ARGV[i] then same = false end
end
if not same or (ARGV[1] == '' and redis.call('DBSIZE') > 0) then return {'GUARD', unpack(g)} end
redis.call('HSET', KEYS[1], 'state', ARGV[7], 'region', ARGV[8], 'node', ARGV[9], 'region_epoch', ARGV[10],
  'membership_epoch', ARGV[11], 'incarnation', ARGV[12])
redis.call('HDEL', KEYS[1], 'restored_to', 'history_before', 'marked')
if tonumber(ARGV[13]) > tonumber(redis.call('HGET', KEYS[1], 'history') or '0') then redis.call('HSET', KEYS[1], 'history', ARGV[13]) end
if ARGV[7] == 'recovering' then
  local peers = redis.call('HGETALL', KEYS[2])
  for i = 1, #peers, 2 do redis.call('HDEL', KEYS[2], peers[i]) end
  redis.call('HSET', KEYS[3], 'batch', ARGV[12])
  redis.call('HDEL', KEYS[3], 'locked')
end
return {'OK'}
