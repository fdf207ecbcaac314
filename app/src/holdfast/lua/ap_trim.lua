#!lua flags=allow-oom
-- include _guard
-- Trim this node's outbox. KEYS: guard, outbox. ARGV[7..9]: highest sequence every peer has applied (0: none known),
-- hard caps on the length and on the bytes (Redis's estimate from a few samples). Behind the caps a slow peer finds a gap
-- and does a full merge.
-- Returns {'OK', entries removed, length now}.
local refusal = guard_refusal()
if refusal then return refusal end
local removed = 0
if tonumber(ARGV[7]) > 0 then
  removed = redis.call('XTRIM', KEYS[2], 'MINID', '~', string.format('%d-0', tonumber(ARGV[7]) + 1))
end
if redis.call('XLEN', KEYS[2]) > tonumber(ARGV[8]) then
  removed = removed + redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[8])
end
local length, bytes = redis.call('XLEN', KEYS[2]), redis.call('MEMORY', 'USAGE', KEYS[2]) or 0
if length > 0 and bytes > tonumber(ARGV[9]) then
  -- A little more than needed, so that the cap is not met again at once.
  local keep = math.floor(length * tonumber(ARGV[9]) / bytes * 0.9)
  removed = removed + redis.call('XTRIM', KEYS[2], 'MAXLEN', '~', keep)
end
return {'OK', removed, redis.call('XLEN', KEYS[2])}
