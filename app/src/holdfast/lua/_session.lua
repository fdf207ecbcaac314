-- Prepended to the scripts that touch a session's record: a hash on its home node. Fields: 'w:<origin>' =
-- '<incarnation> <sequence>' the last write there; 'hlc' the largest clock; 'dead' = origins, separated by spaces,
-- where it wrote under an incarnation that has ended ('?': a record was lost), told until 'dead_until' (ms).

-- Keep the record for ttl ms more once less than half of that is left: not every read shall cost a disk flush.
-- Returns 1 if it was prolonged.
local function prolong_session(key, ttl)
  local left = redis.call('PTTL', key)
  if left == -2 or left >= tonumber(ttl) / 2 then return 0 end
  redis.call('PEXPIRE', key, ttl)
  return 1
end

local function session_died(key, origin, until_ms)
  local dead = redis.call('HGET', key, 'dead') or ''
  if not string.find(' ' .. dead .. ' ', ' ' .. origin .. ' ', 1, true) then
    dead = dead == '' and origin or dead .. ' ' .. origin
  end
  redis.call('HSET', key, 'dead', dead, 'dead_until', until_ms)
end

-- Note a write. begun: 'new' if this id was made for this write, 'kept' if the client showed it: then a record that is
-- not there was lost, and the client is told so. carried: fields of the record on another node. Returns 1 if prolonged.
local function note_session(key, ttl, begun, carried, now, origin, incarnation, seq, hlc)
  local until_ms = string.format('%d', now + tonumber(ttl))
  if begun == 'kept' and redis.call('EXISTS', key) == 0 then session_died(key, '?', until_ms) end
  for i = 1, #carried, 2 do
    redis.call('HSET', key, carried[i], carried[i + 1])
    if carried[i] == 'dead' then redis.call('HSET', key, 'dead_until', until_ms) end
  end
  local held = redis.call('HGET', key, 'w:' .. origin)
  if held and string.match(held, '^%S*') ~= incarnation then session_died(key, origin, until_ms) end
  local latest = redis.call('HGET', key, 'hlc')
  if not latest or latest < hlc then latest = hlc end
  redis.call('HSET', key, 'w:' .. origin, incarnation .. ' ' .. seq, 'hlc', latest)
  return prolong_session(key, ttl)
end
