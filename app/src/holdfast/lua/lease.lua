#!lua flags=allow-oom
-- include _guard
-- Take or keep the zone's replication lease. KEYS: guard, lease. ARGV[7..8]: holder, length in ms. The lease only saves
-- work; correctness rests on the cursor compared by ap_apply. Returns {'OK', 1 if held, the holder}.
local refusal = guard_refusal()
if refusal then return refusal end
local holder = redis.call('GET', KEYS[2])
if not holder or holder == ARGV[7] then
  redis.call('SET', KEYS[2], ARGV[7], 'PX', ARGV[8])
  return {'OK', 1, ARGV[7]}
end
return {'OK', 0, holder}
