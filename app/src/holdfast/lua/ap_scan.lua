#!lua flags=allow-oom
-- Full merge, on the origin: one page of all AP values. KEYS[1] guard. ARGV: SCAN cursor, COUNT.
-- Returns {'OK', {guard's six fields}, next cursor, {key, version, kind, value, rep, ...}, the server's run id (a cursor
-- means nothing to another process)}. Not guarded: the reader judges.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local page = redis.call('SCAN', ARGV[1], 'MATCH', 'ap:*', 'COUNT', ARGV[2])
local out = {}
for _, key in ipairs(page[2]) do
  local r = redis.call('HMGET', key, 'ver', 'k', 'v', 'rep')
  if r[1] then
    out[#out + 1] = string.sub(key, 4)
    out[#out + 1] = r[1]
    out[#out + 1] = r[2]
    out[#out + 1] = r[3]
    out[#out + 1] = r[4] or ''
  end
end
return {'OK', g, page[1], out, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
