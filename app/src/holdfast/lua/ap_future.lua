#!lua flags=allow-oom
-- Parked entries, on any node: one page of the AP entries held here whose version is beyond a limit. KEYS: guard.
-- ARGV: SCAN cursor, COUNT, limit (12 hex digits of milliseconds). Changes nothing; not guarded: the caller judges.
-- Returns what ap_scan returns: {'OK', {guard's six fields}, next cursor, {key, version, kind, value, rep, ...}, run id}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local page = redis.call('SCAN', ARGV[1], 'MATCH', 'ap:*', 'COUNT', ARGV[2])
local out = {}
for _, key in ipairs(page[2]) do
  local version = redis.call('HGET', key, 'ver')
  if version and string.sub(version, 10, 21) > ARGV[3] then
    local r = redis.call('HMGET', key, 'k', 'v', 'rep')
    out[#out + 1] = string.sub(key, 4)
    out[#out + 1] = version
    out[#out + 1] = r[1]
    out[#out + 1] = r[2]
    out[#out + 1] = r[3] or ''
  end
end
return {'OK', g, page[1], out, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
