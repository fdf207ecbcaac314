#!lua flags=allow-oom
-- include _guard
-- Repair, on a source: one page of all CP registers. KEYS[1] guard. ARGV[7..8]: SCAN cursor, COUNT.
-- Returns {'OK', the server's run id (a cursor means nothing to another process), next cursor, {key, tag, ...}}.
local refusal = guard_refusal()
if refusal then return refusal end
local page = redis.call('SCAN', ARGV[7], 'MATCH', 'cp:*', 'COUNT', ARGV[8])
local out = {}
for _, key in ipairs(page[2]) do
  local tag = redis.call('HGET', key, 't')
  if tag then
    out[#out + 1] = string.sub(key, 4)
    out[#out + 1] = tag
  end
end
return {'OK', string.match(redis.call('INFO', 'server'), 'run_id:(%x+)'), page[1], out}
