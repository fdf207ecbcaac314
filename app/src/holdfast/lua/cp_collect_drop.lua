#!lua flags=allow-oom
-- include _guard
-- Collection: remove registers that still hold exactly the given tag, and end the batch's lock. KEYS: guard, CP state,
-- registers. ARGV[7]: the batch; ARGV[8...]: the tag of each register. Returns {'OK', number removed}.
local refusal = guard_refusal()
if refusal then return refusal end
local removed = 0
for i = 3, #KEYS do
  if redis.call('HGET', KEYS[i], 't') == ARGV[5 + i] then
    redis.call('HDEL', KEYS[i], 't', 'k', 'v')
    removed = removed + 1
  end
end
if redis.call('HGET', KEYS[2], 'batch') == ARGV[7] then redis.call('HDEL', KEYS[2], 'locked') end
return {'OK', removed}
