#!lua
-- include _guard
-- Repair, on the node that is healed: raise the floor of collection to that of the others. KEYS: guard, CP state.
-- ARGV[7]: the floor, a tag, or '' for none. Returns {'OK'}.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[7] > (redis.call('HGET', KEYS[2], 'floor') or '') then redis.call('HSET', KEYS[2], 'floor', ARGV[7]) end
return {'OK'}
