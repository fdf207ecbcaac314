#!lua
-- include _guard
-- Rate limits: this process's own counts in, the counts of the others out. KEYS: guard, then one counter a key.
-- ARGV[7], three for each counter: the field of this process, its count, time to live in ms. A count only grows, so the
-- larger one stays: sending twice counts once. Guarded as a write: on a node that is no member nothing is stored, a blank
-- node stays blank. Returns {'OK', the sum of all other fields, ... for each counter}.
local refusal = guard_refusal()
if refusal then return refusal end
local out = {'OK'}
for i = 2, #KEYS do
  local at = 1 + 3 * i
  local field, mine, ttl = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
  local held = tonumber(redis.call('HGET', KEYS[i], field) or '')
  if not held or held < mine then
    redis.call('HSET', KEYS[i], field, ARGV[at + 1])
    if not held then redis.call('PEXPIRE', KEYS[i], ttl) end
  end
  local others, all = 0, redis.call('HGETALL', KEYS[i])
  for f = 1, #all, 2 do
    if all[f] ~= field then others = others + tonumber(all[f + 1]) end
  end
  out[#out + 1] = others
end
return out
