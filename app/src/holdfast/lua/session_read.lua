#!lua flags=allow-oom
-- include _guard
-- include _session
-- A session's record, from its home node. KEYS: guard, session. ARGV[7]: time to live in ms. Returns {'OK', this node's
-- clock in ms, 1 if prolonged, {field, value, ...}}; no fields: there is no such session (any more).
local refusal = guard_refusal()
if refusal then return refusal end
local t = redis.call('TIME')
local now = string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))
return {'OK', now, prolong_session(KEYS[2], ARGV[7]), redis.call('HGETALL', KEYS[2])}
