#!lua
-- include _guard
-- CP phase 2: keep the larger tag. KEYS: guard, register. ARGV[7..9]: tag, kind (v, d), value.
-- Tags are fixed-width hexadecimal, so the text order is the tag order in every locale.
-- Returns {'OK', the tag now held}. The same tag twice is a no-op.
local refusal = guard_refusal()
if refusal then return refusal end
local held = redis.call('HGET', KEYS[2], 't')
if held and held >= ARGV[7] then return {'OK', held} end
redis.call('HSET', KEYS[2], 't', ARGV[7], 'k', ARGV[8], 'v', ARGV[9])
return {'OK', ARGV[7]}
