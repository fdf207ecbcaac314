#!lua flags=allow-oom
-- Replication, on the origin: the outbox after a position. KEYS: guard, outbox, AP state, peers.
-- ARGV: the position (sequence number), most entries, most bytes of keys and values, name of the reading node.
-- Returns {'OK', {guard's six fields}, last sequence minted here, the reader's record on THIS node's own outbox as this
-- node's peers hash has it ('' if none), number of entries, sequence of the first and of the last ('' if none), the
-- batch}. The batch goes to ap_replay as it is: MessagePack of key, version, kind, value, prev, replaces of each entry in
-- one flat array. Not guarded: the reader judges the guard.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local head = redis.call('HGET', KEYS[3], 'seq') or '0'
local count, bytes, after, first, flat, chunk = 0, 0, ARGV[1], '', {}, 16
local most, budget, n = tonumber(ARGV[2]), tonumber(ARGV[3]), 0
while count < most and bytes < budget do
  -- Small chunks while values are large: one may be a megabyte.
  local part = redis.call('XRANGE', KEYS[2], '(' .. after .. '-0', '+', 'COUNT', math.min(chunk, most - count))
  if #part == 0 then break end
  for _, entry in ipairs(part) do
    local f = entry[2]
    flat[n + 1], flat[n + 2], flat[n + 3], flat[n + 4] = f[2], f[4], f[6], f[8]
    flat[n + 5], flat[n + 6] = f[10], f[12] or ''
    n = n + 6
    bytes = bytes + #f[2] + #f[8] + 100
  end
  count = count + #part
  if first == '' then first = string.match(part[1][1], '^%d+') end
  after = string.match(part[#part][1], '^%d+')
  if bytes < count * 1000 then chunk = 256 end
end
return {'OK', g, head, redis.call('HGET', KEYS[4], ARGV[4]) or '', count, first, count > 0 and after or '',
  cmsgpack.pack(flat)}
