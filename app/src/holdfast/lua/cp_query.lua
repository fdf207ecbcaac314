#!lua flags=allow-oom
-- include _guard
-- CP phase 1. KEYS: guard, register, CP state. ARGV[7]: 'tag', 'value' or 'held'.
-- Returns {'OK', tag, kind, value}; the tag is '' if there is no such register. For 'tag' it is the register's or, if that
-- is larger, the node's floor (a new write must be above both); for 'held' the register's alone.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[7] == 'value' then
  local r = redis.call('HMGET', KEYS[2], 't', 'k', 'v')
  return {'OK', r[1] or '', r[2] or '', r[3] or ''}
end
local tag = redis.call('HGET', KEYS[2], 't') or ''
if ARGV[7] == 'tag' then
  local floor = redis.call('HGET', KEYS[3], 'floor') or ''
  if floor > tag then tag = floor end
end
return {'OK', tag, '', ''}
