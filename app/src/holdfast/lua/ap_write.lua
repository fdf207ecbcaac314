#!lua
-- include _guard
-- include _ap
-- include _session
-- AP: value, version, dense sequence number and outbox entry in one step, minted on this node.
-- KEYS: guard, value, outbox, AP state. ARGV[7..11]: kind, value, key, floor (the largest HLC the caller knows,
-- 16 hex), largest accepted drift of the floor in ms, latest ms of this node's clock at which to write ('' for any):
-- who asked has given up then and may have written elsewhere; a version minted later would win over what came between.
-- HLC = max(this node's last, its clock, the floor) + 1; a floor beyond the drift is cut, or a bad clock would spread.
-- With a session KEYS[5] is its record and ARGV[13..]: its time to live in ms, 'new' or 'kept', fields carried along.
-- Returns {'OK', version, sequence, incarnation, 1 if the session was prolonged} or {'LATE'}.
local refusal = guard_refusal()
if refusal then return refusal end
local now = now_ms()
if ARGV[12] ~= '' and now > tonumber(ARGV[12]) then return {'LATE'} end
local st = redis.call('HMGET', KEYS[4], 'hlc', 'seq')
local hlc = st[1] or string.format('%012x0000', now)
local physical = string.format('%012x0000', now)
if physical > hlc then hlc = physical end
local floor = ARGV[10]
local known = KEYS[5] and redis.call('HGET', KEYS[5], 'hlc')
if known and known > floor then floor = known end
local limit = string.format('%012x0000', now + tonumber(ARGV[11]))
if floor > limit then floor = limit end
if floor > hlc then hlc = floor end
local r = redis.call('HMGET', KEYS[2], 'ver', 'rep')
local prev, replaced = r[1] or '', r[2] or ''
local epoch = string.format('%08x', tonumber(ARGV[3]))
if string.sub(prev, 1, 8) == epoch and string.sub(prev, 10, 25) > hlc then hlc = string.sub(prev, 10, 25) end
local ms, counter = tonumber(string.sub(hlc, 1, 12), 16), tonumber(string.sub(hlc, 13, 16), 16) + 1
if counter > 65535 then ms, counter = ms + 1, 0 end
local version
repeat
  hlc = string.format('%012x%04x', ms, counter)
  version = epoch .. '.' .. hlc .. '.' .. ARGV[2]
  counter = counter + 1
  -- After a restamp this node's clock passes the time of the future once more: never a version again that was replaced.
until not names(replaced, version)
-- A value of a higher region epoch than this node's guard: this node is from the past, refuse like a wrong guard.
if prev ~= '' and older(version, prev) then return {'GUARD', 'member', ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]} end
local seq = string.format('%d', (tonumber(st[2]) or 0) + 1)
-- First what can fail (an id that is not above the stream's last one), so that an error leaves nothing half done.
redis.call('XADD', KEYS[3], seq .. '-0', 'key', ARGV[9], 'ver', version, 'k', ARGV[7], 'v', ARGV[8], 'prev', prev)
redis.call('HSET', KEYS[2], 'ver', version, 'k', ARGV[7], 'v', ARGV[8])
redis.call('HSET', KEYS[4], 'hlc', hlc, 'seq', seq)
local prolonged = 0
if KEYS[5] then
  prolonged = note_session(KEYS[5], ARGV[13], ARGV[14], {unpack(ARGV, 15)}, now, ARGV[2], ARGV[5], seq, hlc)
end
return {'OK', version, seq, ARGV[5], tostring(prolonged)}
