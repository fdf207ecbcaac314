#!lua flags=no-writes,allow-oom
-- `holdfast region compare`, on a node of the region that came back: one page of all registers and AP values. No keys.
-- ARGV: SCAN cursor, COUNT. Declared as reading, so that it runs whatever the guard, the disk or the memory are like.
-- Returns {next cursor, {key with its prefix, version, kind, replaced versions ('' for none), ...}}.
local page = redis.call('SCAN', ARGV[1], 'COUNT', ARGV[2])
local out, n = {}, 0
for _, key in ipairs(page[2]) do
  local face = string.sub(key, 1, 3)
  local r
  if face == 'cp:' then
    r = redis.call('HMGET', key, 't', 'k')
  elseif face == 'ap:' then
    r = redis.call('HMGET', key, 'ver', 'k', 'rep')
  end
  if r and r[1] then
    out[n + 1], out[n + 2], out[n + 3], out[n + 4] = key, r[1], r[2] or '', r[3] or ''
    n = n + 4
  end
end
return {page[1], out}
