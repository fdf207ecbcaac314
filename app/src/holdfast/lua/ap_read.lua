#!lua flags=allow-oom
-- include _guard
-- AP read. KEYS: guard, value, AP state, peers, parked. Returns {'OK', version, kind, value, this node's clock in ms, its last
-- sequence number, {origin, 'incarnation sequence caught-up-ms', ...}, number of parked entries}; version '' if never
-- written.
local refusal = guard_refusal()
if refusal then return refusal end
local r = redis.call('HMGET', KEYS[2], 'ver', 'k', 'v')
local t = redis.call('TIME')
local now = string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))
return {'OK', r[1] or '', r[2] or '', r[3] or '', now, redis.call('HGET', KEYS[3], 'seq') or '0',
  redis.call('HGETALL', KEYS[4]), redis.call('HLEN', KEYS[5])}
