#!lua flags=allow-oom
-- include _guard
-- Collection: what this node holds. KEYS: guard, CP state, registers. ARGV[7]: the batch whose lock must still be there
-- ('' to look without a lock). Returns {'OK', {tag, kind, ...}} in the order of the registers, '' for none, or {'BUSY', batch}.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[7] ~= '' then
  local c = redis.call('HMGET', KEYS[2], 'batch', 'locked')
  if not c[2] or c[1] ~= ARGV[7] then return {'BUSY', c[1] or ''} end
end
local out = {}
for i = 3, #KEYS do
  local r = redis.call('HMGET', KEYS[i], 't', 'k')
  out[#out + 1] = r[1] or ''
  out[#out + 1] = r[2] or ''
end
return {'OK', out}
