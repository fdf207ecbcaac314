#!lua
-- include _guard
-- Trim this node's outbox. KEYS: guard, outbox. ARGV[7..8]: highest sequence every peer has applied (0: none known),
-- hard cap on the length. Behind the cap a slow peer finds a gap and does a full merge.
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
return {'OK', removed, redis.call('XLEN', KEYS[2])}
