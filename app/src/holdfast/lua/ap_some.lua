#!lua flags=allow-oom
-- include _ap
-- Some AP entries by key. KEYS: guard, then the values' keys. ARGV[1]: '1' with kind and value, '0' without.
-- Changes nothing; not guarded: the caller judges. Returns {'OK', {guard's six fields}, {version, rank, ...}} ('' if never
-- written; the rank orders contents of one version, see _ap.lua), or {version, kind, value, rep, ...}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local out, n = {}, 0
for i = 2, #KEYS do
  if ARGV[1] == '1' then
    local r = redis.call('HMGET', KEYS[i], 'ver', 'k', 'v', 'rep')
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = r[1] or '', r[2] or '', r[3] or '', r[4] or ''
    n = n + 4
  else
    local r = redis.call('HMGET', KEYS[i], 'ver', 'k', 'v')
    out[n + 1], out[n + 2] = r[1] or '', r[1] and rank(r[2] or '', r[3] or '') or ''
    n = n + 2
  end
end
return {'OK', g, out}
