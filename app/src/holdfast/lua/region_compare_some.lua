#!lua flags=no-writes,allow-oom
-- `holdfast region compare`, on any node: what it has of the given keys. KEYS: registers and AP values.
-- ARGV: SHA-1 of the versions that are expected, joined by newlines; '' for none.
-- Returns {} if they are as expected; else {version ('' if never written), kind, replaced versions ('' for none), ...}.
local function version_field(key)
  return string.sub(key, 1, 3) == 'cp:' and 't' or 'ver'
end
if ARGV[1] ~= '' then
  local versions = {}
  for i, key in ipairs(KEYS) do
    versions[i] = redis.call('HGET', key, version_field(key)) or ''
  end
  if redis.sha1hex(table.concat(versions, '\n')) == ARGV[1] then
    return {}
  end
end
local out, n = {}, 0
for _, key in ipairs(KEYS) do
  local r = redis.call('HMGET', key, version_field(key), 'k', 'rep')
  out[n + 1], out[n + 2], out[n + 3] = r[1] or '', r[2] or '', r[3] or ''
  n = n + 3
end
return out
