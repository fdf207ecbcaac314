#!lua
-- include _guard
-- include _ap
-- Repair, on the node that is healed: its marks of AP collection, floor and clock are not below those of the others.
-- KEYS: guard, AP state. ARGV[7..9]: mark, mark of the last batch that removed something, floor ('' for none).
-- Returns {'OK'}.
local refusal = guard_refusal()
if refusal then return refusal end
local st = redis.call('HMGET', KEYS[2], 'mark', 'done', 'floor')
if tonumber(ARGV[7]) > tonumber(st[1] or '0') then redis.call('HSET', KEYS[2], 'mark', ARGV[7]) end
if tonumber(ARGV[8]) > tonumber(st[2] or '0') then redis.call('HSET', KEYS[2], 'done', ARGV[8]) end
if ARGV[9] ~= '' then
  if not st[3] or older(st[3], ARGV[9]) then redis.call('HSET', KEYS[2], 'floor', ARGV[9]) end
  raise_hlc(KEYS[2], string.sub(ARGV[9], 10, 25))
end
return {'OK'}
