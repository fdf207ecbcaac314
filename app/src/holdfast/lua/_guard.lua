-- Prepended to every guarded script (after its shebang line).
-- KEYS[1] is the guard. ARGV[1..6]: the region, node, region epoch, membership epoch and incarnation the caller
-- believes, and the states it accepts ("member" or "member,recovering").
-- Returns nil if the node is what the caller believes, otherwise the refusal to return: {'GUARD', <the real guard>}.
-- Scripts are declared as writing ones (no flag no-writes), so a replica, a full disk and a failing AOF refuse them.
local function guard_refusal()
  local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
  if g[1] and string.find(',' .. ARGV[6] .. ',', ',' .. g[1] .. ',', 1, true)
      and g[2] == ARGV[1] and g[3] == ARGV[2] and g[4] == ARGV[3] and g[5] == ARGV[4] and g[6] == ARGV[5] then
    return nil
  end
  for i = 1, 6 do
    if not g[i] then g[i] = '' end
  end
  return {'GUARD', unpack(g)}
end
