#!lua flags=allow-oom
-- Replication, on the origin: the outbox after a position. KEYS: guard, outbox, AP state, peers.
-- ARGV: the position (sequence number), most entries, most bytes of keys and values, name of the reading node.
-- Returns {'OK', {guard's six fields}, last sequence minted here, the reader's record on THIS node's own outbox as this
-- node's peers hash has it ('' if none), {id, {field, value, ...}, ...}}. Not guarded: the reader judges the guard.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local head = redis.call('HGET', KEYS[3], 'seq') or '0'
local entries, bytes, after = {}, 0, ARGV[1]
local most, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
while #entries < most and bytes < budget do
  -- Small chunks: one value may be a megabyte.
  local chunk = redis.call('XRANGE', KEYS[2], '(' .. after .. '-0', '+', 'COUNT', 16)
  if #chunk == 0 then break end
  for _, entry in ipairs(chunk) do
    entries[#entries + 1] = entry
    for _, field in ipairs(entry[2]) do bytes = bytes + #field end
    after = string.match(entry[1], '^%d+')
  end
end
return {'OK', g, head, redis.call('HGET', KEYS[4], ARGV[4]) or '', entries}
