#!lua flags=allow-oom
-- include _guard
-- Repair, on the node that is healed: which of these registers are older there than on a source, or not there at all.
-- KEYS: guard, registers. ARGV[7..]: the source's tag of each. Tags are fixed-width hexadecimal: see cp_store.
-- Returns {'OK', index of such a register (from 0), ...}.
local refusal = guard_refusal()
if refusal then return refusal end
local out = {'OK'}
for i = 2, #KEYS do
  local held = redis.call('HGET', KEYS[i], 't')
  if not held or held < ARGV[i + 5] then out[#out + 1] = i - 2 end
end
return out
