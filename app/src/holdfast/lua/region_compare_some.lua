#!lua flags=no-writes,allow-oom
-- `holdfast region compare`, on any node: what it has of the given keys. KEYS: registers and AP values.
-- Returns {version ('' if never written), kind, replaced versions ('' for none), ...}.
local out, n = {}, 0
for _, key in ipairs(KEYS) do
  local r
  if string.sub(key, 1, 3) == 'cp:' then
    r = redis.call('HMGET', key, 't', 'k')
  else
    r = redis.call('HMGET', key, 'ver', 'k', 'rep')
  end
  out[n + 1], out[n + 2], out[n + 3] = r[1] or '', r[2] or '', r[3] or ''
  n = n + 3
end
return out
