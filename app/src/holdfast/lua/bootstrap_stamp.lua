#!lua
-- Stamp a blank node, once. KEYS[1] guard. ARGV: state, region, node, region epoch, membership epoch, incarnation,
-- run id of the server that was seen blank ('' to skip), latest clock in ms at which the stamp may happen.
-- The last two keep a slow bootstrap from making a member of a node that was a member, lost its disk and restarted
-- in between. Returns {'OK'}, {'EXISTS'}, {'DATA'} or {'CHANGED'}.
if redis.call('EXISTS', KEYS[1]) == 1 then return {'EXISTS'} end
if redis.call('DBSIZE') > 0 then return {'DATA'} end
if ARGV[7] ~= '' and string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') ~= ARGV[7] then return {'CHANGED'} end
local t = redis.call('TIME')
if tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) > tonumber(ARGV[8]) then return {'CHANGED'} end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'region', ARGV[2], 'node', ARGV[3], 'region_epoch', ARGV[4],
  'membership_epoch', ARGV[5], 'incarnation', ARGV[6],
  'confirmed', string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'))
return {'OK'}
