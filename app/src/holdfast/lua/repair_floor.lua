#!lua
-- include _guard
-- Repair, on the node that is healed: raise the floors to those of the others. KEYS: guard, CP state, AP state.
-- ARGV[7..8]: the CP floor (a tag) and the AP floor (a version); '' for none. Returns {'OK'}.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[7] > (redis.call('HGET', KEYS[2], 'floor') or '') then redis.call('HSET', KEYS[2], 'floor', ARGV[7]) end
if ARGV[8] ~= '' then
  -- Versions made here must be above everything collected, or a left-over tombstone could hide them.
  if ARGV[8] > (redis.call('HGET', KEYS[3], 'floor') or '') then redis.call('HSET', KEYS[3], 'floor', ARGV[8]) end
  local hlc = string.sub(ARGV[8], 10, 25)
  if hlc > (redis.call('HGET', KEYS[3], 'hlc') or '') then redis.call('HSET', KEYS[3], 'hlc', hlc) end
end
return {'OK'}
