#!lua
-- include _guard
-- Rate limits: this process's own counts in, the counts of the others out. KEYS: guard, then one counter a key.
-- ARGV[7]: the process; then for each counter: its count, time to live in ms. A count only grows, so the larger one
-- stays: sending twice counts once. Guarded as a write: on a node that is no member nothing is stored, a blank node stays
-- blank. Returns {'OK', the sum of the other processes, the sum of all, ... for each counter}.
local refusal = guard_refusal()
if refusal then return refusal end
local out = {'OK'}
for i = 2, #KEYS do
  local mine, ttl = tonumber(ARGV[4 + 2 * i]), ARGV[5 + 2 * i]
  local held = tonumber(redis.call('HGET', KEYS[i], ARGV[7]) or '')
  if not held or held < mine then
    redis.call('HSET', KEYS[i], ARGV[7], ARGV[4 + 2 * i])
    if not held then redis.call('PEXPIRE', KEYS[i], ttl) end
  end
  local others, all = 0, redis.call('HGETALL', KEYS[i])
  for f = 1, #all, 2 do
    if all[f] ~= ARGV[7] then others = others + tonumber(all[f + 1]) end
  end
  out[#out + 1] = others
end
return out
