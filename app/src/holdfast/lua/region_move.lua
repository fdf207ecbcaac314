#!lua flags=allow-oom
-- Replace the guard in one step, on behalf of `holdfast region`. KEYS: guard, peers, CP state, the zone's lease, the collector's, the heartbeat. ARGV[1..6] the guard expected,
-- ARGV[7..12] the new one: state, region, node, region epoch, membership epoch, incarnation; ARGV[13] the run id of the server
-- that was looked at, ARGV[14] '1': that process counts as confirmed from now on, ARGV[15] the reason, for people, ARGV[16] the epoch at which the region's
-- whole history was cut back ('' for no news of that; history_before keeps what it was until the node is *promoted*), ARGV[17] the latest ms of this
-- node's clock at which to move ('' for any): who was paused, or this node, must not act on what was seen long ago. Declared as writing: a replica refuses, so whoever is moved is a primary.
-- A copy that becomes *recovering* forgets how far it had applied the others' AP writes, and a collection on it ends (as in
-- repair_move); the leases that came with the copy end. If it was a copy of the other region's, the last heartbeat that came
-- through stays in copied_ms (all that its primary had executed by then is in the copy) and the epoch in promoted_epoch; data of
-- this region's own that are adopted leave both, and have theirs in adopted_ms. One that is *fenced* keeps what it was in fenced_from and its epoch in
-- fenced_epoch, for `region unfence`. The latter stays when that is taken back: it tells whether the nodes left were behind.
-- The copy is marked until it is *promoted*: one that the others go on without was given up, and is not healed by merging.
-- Returns {'OK'}, {'CHANGED'} if it is another process, {'LATE'}, or the real guard in {'GUARD', ...}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
local same = true
for i = 1, 6 do
  if not g[i] then g[i] = '' end
  if g[i] ~= ARGV[i] then same = false end
end
if not same then return {'GUARD', unpack(g)} end
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if run_id ~= ARGV[13] then return {'CHANGED'} end
local t = redis.call('TIME')
if ARGV[17] ~= '' and tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) > tonumber(ARGV[17]) then return {'LATE'} end
redis.call('HSET', KEYS[1], 'state', ARGV[7], 'region', ARGV[8], 'node', ARGV[9], 'region_epoch', ARGV[10],
  'membership_epoch', ARGV[11], 'incarnation', ARGV[12])
redis.call('HSET', KEYS[1], 'reason', ARGV[15])
if ARGV[14] == '1' then redis.call('HSET', KEYS[1], 'confirmed', run_id) end
if ARGV[16] ~= '' then
  local before = redis.call('HGET', KEYS[1], 'history_before') or redis.call('HGET', KEYS[1], 'history') or '0'
  redis.call('HSET', KEYS[1], 'history', ARGV[16], 'history_before', before)
end
if ARGV[7] == 'promoted' then redis.call('HDEL', KEYS[1], 'restored_to', 'history_before', 'marked') end
if ARGV[7] == 'fenced' and g[1] ~= 'fenced' then
  redis.call('HSET', KEYS[1], 'fenced_from', g[1], 'fenced_epoch', g[4])
elseif ARGV[7] ~= 'fenced' then
  redis.call('HDEL', KEYS[1], 'fenced_from')
  if ARGV[10] ~= g[4] or ARGV[12] ~= g[6] then redis.call('HDEL', KEYS[1], 'fenced_epoch') end
end
if ARGV[7] == 'recovering' and ARGV[12] ~= g[6] then
  local peers = redis.call('HGETALL', KEYS[2])
  for i = 1, #peers, 2 do redis.call('HDEL', KEYS[2], peers[i]) end
  redis.call('HSET', KEYS[1], 'marked', '1')
  redis.call('HSET', KEYS[3], 'batch', ARGV[12])
  redis.call('HDEL', KEYS[3], 'locked')
  redis.call('PEXPIRE', KEYS[4], 1)
  redis.call('PEXPIRE', KEYS[5], 1)
  local beat = redis.call('GET', KEYS[6]) or ''
  if ARGV[8] ~= g[2] then
    redis.call('HSET', KEYS[1], 'copied_ms', beat, 'promoted_epoch', ARGV[10])
    redis.call('HDEL', KEYS[1], 'adopted_ms')
  else
    redis.call('HSET', KEYS[1], 'adopted_ms', beat)
  end
end
return {'OK'}
