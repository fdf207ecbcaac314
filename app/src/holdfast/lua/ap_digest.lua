#!lua flags=allow-oom
-- include _ap
-- Divergence, on any node: one page of hashes of AP entries. KEYS: guard. ARGV: SCAN cursor, COUNT, the youngest
-- version wanted (12 hex digits of milliseconds), buckets wanted: '' for hashes only, otherwise one character '0' or '1'
-- for each bucket; versions of tombstones up to the one in ARGV[5] (the same form) are left out: they are collected.
-- A hash is the first 16 hex digits of SHA-1 over key, version, kind and value; its last three digits
-- modulo the number of buckets are the bucket (divergence.py). Changes nothing; not guarded: the caller judges.
-- Returns {'OK', {guard's six fields}, next cursor, the hashes in one string, or {key, version, rank, hash, ...} of the
-- entries in the buckets wanted (rank: see _ap.lua), the server's run id (a cursor means nothing to another process), the
-- bytes of values that were hashed, by which the caller makes the next page larger or smaller}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local page = redis.call('SCAN', ARGV[1], 'MATCH', 'ap:*', 'COUNT', ARGV[2])
local youngest, wanted, collected = ARGV[3], ARGV[4], ARGV[5]
local hashes, rows, n, bytes = {}, {}, 0, 0
for _, key in ipairs(page[2]) do
  local r = redis.call('HMGET', key, 'ver', 'k', 'v')
  if r[1] and string.sub(r[1], 10, 21) <= youngest
      and (r[2] ~= 'd' or string.sub(r[1], 10, 21) > collected) then
    local name, kind, value = string.sub(key, 4), r[2] or '', r[3] or ''
    bytes = bytes + #value
    local hash = string.sub(redis.sha1hex(name .. '\n' .. r[1] .. '\n' .. kind .. '\n' .. value), 1, 16)
    if wanted == '' then
      n = n + 1
      hashes[n] = hash
    else
      local bucket = tonumber(string.sub(hash, 14), 16) % #wanted
      if string.byte(wanted, bucket + 1) == 49 then
        rows[n + 1], rows[n + 2], rows[n + 3], rows[n + 4] = name, r[1], rank(kind, value), hash
        n = n + 4
      end
    end
  end
end
return {'OK', g, page[1], wanted == '' and table.concat(hashes) or rows,
  string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), bytes}
