#!lua flags=allow-oom
-- Divergence, on any node: one page of hashes of AP entries. KEYS: guard. ARGV: SCAN cursor, COUNT, the youngest
-- version wanted (12 hex digits of milliseconds), buckets wanted: '' for hashes only, otherwise one character '0' or '1'
-- for each bucket; versions of tombstones up to the one in ARGV[5] (the same form) are left out: they are collected. A hash is the first 16 hex digits of SHA-1 over key, version and kind; its last three digits modulo
-- the number of buckets are the bucket (divergence.py). Changes nothing; not guarded: the caller judges.
-- Returns {'OK', {guard's six fields}, next cursor, the hashes in one string, or {key, version, kind, ...} of the entries in
-- the buckets wanted, the server's run id (a cursor means nothing to another process)}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local page = redis.call('SCAN', ARGV[1], 'MATCH', 'ap:*', 'COUNT', ARGV[2])
local youngest, wanted, collected = ARGV[3], ARGV[4], ARGV[5]
local hashes, rows, n = {}, {}, 0
for _, key in ipairs(page[2]) do
  local r = redis.call('HMGET', key, 'ver', 'k')
  if r[1] and string.sub(r[1], 10, 21) <= youngest
      and (r[2] ~= 'd' or string.sub(r[1], 10, 21) > collected) then
    local name = string.sub(key, 4)
    local hash = string.sub(redis.sha1hex(name .. '\n' .. r[1] .. '\n' .. r[2]), 1, 16)
    if wanted == '' then
      n = n + 1
      hashes[n] = hash
    else
      local bucket = tonumber(string.sub(hash, 14), 16) % #wanted
      if string.byte(wanted, bucket + 1) == 49 then
        rows[n + 1], rows[n + 2], rows[n + 3] = name, r[1], r[2]
        n = n + 3
      end
    end
  end
end
return {'OK', g, page[1], wanted == '' and table.concat(hashes) or rows,
  string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
