#!lua flags=allow-oom
-- include _guard
-- Note the node's clock, for judging how far its replica is behind. KEYS: guard, heartbeat. ARGV[7]: not if the last one is
-- younger than that many ms (several processes do this). Returns {'OK', ms since the epoch}.
local refusal = guard_refusal()
if refusal then return refusal end
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if now < last or now - last >= tonumber(ARGV[7]) then
  redis.call('SET', KEYS[2], string.format('%d', now))
end
return {'OK', string.format('%d', now)}
