#!lua flags=allow-oom
-- include _guard
-- CP phase 1. KEYS: guard, register. ARGV[7]: 'tag' or 'value'.
-- Returns {'OK', tag, kind, value}; the tag is '' if the register was never written.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[7] == 'tag' then
  return {'OK', redis.call('HGET', KEYS[2], 't') or '', '', ''}
end
local r = redis.call('HMGET', KEYS[2], 't', 'k', 'v')
return {'OK', r[1] or '', r[2] or '', r[3] or ''}
