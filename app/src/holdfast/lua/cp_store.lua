#!lua
-- include _guard
-- CP phase 2: keep the larger tag. KEYS: guard, register, CP state. ARGV[7..10]: tag, kind (v, d), value, and the batch
-- under which somebody vouched that the key was not collected ('' for none).
-- Tags are fixed-width hexadecimal, so the text order is the tag order in every locale.
-- Returns {'OK', the tag now held}; the same tag twice is a no-op. Without the key a tag at or below the node's floor is
-- refused: {'FLOOR', floor, the node's last batch of collection, '' while one is running}.
local refusal = guard_refusal()
if refusal then return refusal end
local held = redis.call('HGET', KEYS[2], 't')
if held and held >= ARGV[7] then return {'OK', held} end
if not held then
  local c = redis.call('HMGET', KEYS[3], 'floor', 'batch', 'locked')
  local batch = not c[3] and c[2] or ''
  if c[1] and ARGV[7] <= c[1] and (batch == '' or batch ~= ARGV[10]) then return {'FLOOR', c[1], batch} end
end
redis.call('HSET', KEYS[2], 't', ARGV[7], 'k', ARGV[8], 'v', ARGV[9])
return {'OK', ARGV[7]}
