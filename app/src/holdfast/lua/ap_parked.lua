#!lua flags=allow-oom
-- Full merge, on the origin: one page of its parked entries. KEYS: guard, parked. ARGV: HSCAN cursor, COUNT.
-- Returns what ap_scan returns: {'OK', {guard's six fields}, next cursor, {key, version, kind, value, replaces, ...}, run id}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local page = redis.call('HSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])
local out = {}
for i = 1, #page[2], 2 do
  local bar = string.find(page[2][i], '|', 1, true)
  local entry = cmsgpack.unpack(page[2][i + 1])
  out[#out + 1] = string.sub(page[2][i], bar + 1)
  out[#out + 1] = string.sub(page[2][i], 1, bar - 1)
  out[#out + 1] = entry[1]
  out[#out + 1] = entry[2]
  out[#out + 1] = entry[4] or ''
end
return {'OK', g, page[1], out, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
