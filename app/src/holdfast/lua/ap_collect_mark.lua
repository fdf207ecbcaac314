#!lua flags=allow-oom
-- include _guard
-- include _ap
-- AP collection: raise this node's mark, so that pages of a copy that were read before are refused here (ap_apply), and its
-- floor and clock, so that what is written here from now on is above what goes. KEYS: guard, AP state. ARGV[7..8]: the
-- mark, the floor (a version, '' for none: repair only ends copies). Returns {'OK'}, or {'LATE', mark} if the mark is not above the one held.
local refusal = guard_refusal()
if refusal then return refusal end
local st = redis.call('HMGET', KEYS[2], 'mark', 'floor')
if st[1] and tonumber(st[1]) >= tonumber(ARGV[7]) then return {'LATE', st[1]} end
redis.call('HSET', KEYS[2], 'mark', ARGV[7])
if ARGV[8] ~= '' then
  if not st[2] or older(st[2], ARGV[8]) then redis.call('HSET', KEYS[2], 'floor', ARGV[8]) end
  raise_hlc(KEYS[2], string.sub(ARGV[8], 10, 25))
end
return {'OK'}
