#!lua flags=allow-oom
-- include _guard
-- Collection: lock this node for a batch and raise its floor. KEYS: guard, CP state. ARGV[7..9]: the batch's id, the largest
-- tag of the batch, the id of a batch whose lock may be taken over ('' for none).
-- While it is locked the node takes no vouched store. Returns {'OK'} or {'BUSY', the batch that holds the lock}.
local refusal = guard_refusal()
if refusal then return refusal end
local c = redis.call('HMGET', KEYS[2], 'floor', 'batch', 'locked')
if c[3] and c[2] ~= ARGV[7] and c[2] ~= ARGV[9] then return {'BUSY', c[2]} end
local floor = c[1] or ''
if ARGV[8] > floor then floor = ARGV[8] end
redis.call('HSET', KEYS[2], 'floor', floor, 'batch', ARGV[7], 'locked', '1')
return {'OK'}
