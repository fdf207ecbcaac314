#!lua flags=allow-oom
-- What a zone knows of its peers. KEYS: guard, AP state, peers, parked, outbox. Changes nothing; not guarded: the
-- caller looks at the guard itself. Returns {'OK', {guard's six fields}, clock in ms, last sequence, number of parked
-- entries, length of the outbox, {origin, 'incarnation sequence caught-up-ms', ...}}.
local g = redis.call('HMGET', KEYS[1], 'state', 'region', 'node', 'region_epoch', 'membership_epoch', 'incarnation')
for i = 1, 6 do
  if not g[i] then g[i] = '' end
end
local t = redis.call('TIME')
local now = string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))
return {'OK', g, now, redis.call('HGET', KEYS[2], 'seq') or '0', tostring(redis.call('HLEN', KEYS[4])),
  tostring(redis.call('XLEN', KEYS[5])), redis.call('HGETALL', KEYS[3])}
