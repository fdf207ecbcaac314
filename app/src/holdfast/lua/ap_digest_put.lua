#!lua
-- include _guard
-- Divergence, on the zone's node: keep its digest of one cycle for the other zones. KEYS: guard, digests.
-- ARGV[7..9]: cycle, digest, the oldest cycle to keep. Returns {'OK'}.
local refusal = guard_refusal()
if refusal then return refusal end
local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
  local cycle = tonumber(held[i])
  if not cycle or cycle < tonumber(ARGV[9]) then redis.call('HDEL', KEYS[2], held[i]) end
end
redis.call('HSET', KEYS[2], ARGV[7], ARGV[8])
return {'OK'}
