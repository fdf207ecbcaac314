#!lua flags=allow-oom
-- include _guard
-- include _session
-- AP read. KEYS: guard, value, AP state, peers, parked. Returns {'OK', version, kind, value, this node's clock in ms, its last
-- sequence number, {origin, 'incarnation sequence caught-up-ms', ...}, number of parked entries, 1 if the session was
-- prolonged, its fields}; version '' if never written. The session is KEYS[6], its time to live in ms ARGV[7].
local refusal = guard_refusal()
if refusal then return refusal end
local r = redis.call('HMGET', KEYS[2], 'ver', 'k', 'v')
local t = redis.call('TIME')
local now = string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))
return {'OK', r[1] or '', r[2] or '', r[3] or '', now, redis.call('HGET', KEYS[3], 'seq') or '0',
  redis.call('HGETALL', KEYS[4]), redis.call('HLEN', KEYS[5]),
  KEYS[6] and prolong_session(KEYS[6], ARGV[7]) or 0, KEYS[6] and redis.call('HGETALL', KEYS[6]) or {}}
