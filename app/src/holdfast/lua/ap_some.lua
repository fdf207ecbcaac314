#!lua flags=allow-oom
-- Some AP entries by key. KEYS: guard, then the values' keys. ARGV[1]: '1' with kind and value, '0' versions only.
-- Changes nothing; not guarded: the caller judges. Returns {'OK', {guard's six fields}, {version, ...}} ('' if never
-- written), or {version, kind, value, ...}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local out, n = {}, 0
for i = 2, #KEYS do
  if ARGV[1] == '1' then
    local r = redis.call('HMGET', KEYS[i], 'ver', 'k', 'v')
    out[n + 1], out[n + 2], out[n + 3] = r[1] or '', r[2] or '', r[3] or ''
    n = n + 3
  else
    out[n + 1] = redis.call('HGET', KEYS[i], 'ver') or ''
    n = n + 1
  end
end
return {'OK', g, out}
