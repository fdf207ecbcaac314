#!lua
-- include _guard
-- include _ap
-- Write entries with a version of the future anew, at their origin, under its corrected clock.
-- KEYS: guard, outbox, AP state, parked; touches ap:* keys by name (one server, no cluster). ARGV[7..8]: largest drift in
-- ms, number of rows. Then per row: key, the version of the future, kind and value that came with it.
-- What the origin holds for the key now is what is written; the row's value only if it holds nothing. The node's own HLC
-- is taken down to its clock plus the drift first. That is above every version a node with a good clock has applied, so
-- the new versions win over those, and no version is minted twice. The outbox entry says which version it replaces,
-- and so does the value's field rep, for zones that copy it instead (_ap.lua). Each row is minted anew however often it comes. Returns {'OK', {new version, replaced by it, ...}}.
local refusal = guard_refusal()
if refusal then return refusal end
local t = redis.call('TIME')
local limit = tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000) + tonumber(ARGV[7])
local st = redis.call('HMGET', KEYS[3], 'hlc', 'seq')
local ms, counter, seq = limit, 0, tonumber(st[2]) or 0
if st[1] and string.sub(st[1], 1, 12) == string.format('%012x', limit) then
  counter = tonumber(string.sub(st[1], 13, 16), 16)
end
local minted = {}
for i = 1, tonumber(ARGV[8]) do
  local a = 8 + (i - 1) * 4
  local key, future, kind, value = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local held = redis.call('HMGET', 'ap:' .. key, 'ver', 'k', 'v', 'rep')
  if held[1] then kind, value = held[2], held[3] end
  local version
  repeat
    counter = counter + 1
    if counter > 65535 then ms, counter = ms + 1, 0 end
    version = string.format('%08x.%012x%04x.%s', tonumber(ARGV[3]), ms, counter, ARGV[2])
  until version ~= future and not names(held[4] or '', version)
  -- What is held may be a later version of the future, written since the caller looked: that one is replaced as well.
  local gone = future
  if held[1] and held[1] ~= future and older(version, held[1]) then gone = future .. ' ' .. held[1] end
  seq = seq + 1
  redis.call('XADD', KEYS[2], string.format('%d-0', seq), 'key', key, 'ver', version, 'k', kind, 'v', value,
    'prev', held[1] or '', 'rep', gone)
  redis.call('HSET', 'ap:' .. key, 'ver', version, 'k', kind, 'v', value)
  note_replaced('ap:' .. key, held[4] or '', gone, KEYS[4])
  minted[#minted + 1] = version
  minted[#minted + 1] = held[1] or ''
end
redis.call('HSET', KEYS[3], 'hlc', string.format('%012x%04x', ms, counter), 'seq', string.format('%d', seq))
return {'OK', minted}
