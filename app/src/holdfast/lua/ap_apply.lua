#!lua
-- include _guard
-- include _ap
-- include _apply
-- On the reader: apply entries that were copied from another node, or only move a cursor, in one step.
-- KEYS: guard, peers, AP state, parked, then the value's key of each entry.
-- ARGV[7..11]: origin; the record expected in peers ('' for none, '*' for a page of a copy: the record is neither
-- compared nor changed); the new record 'incarnation sequence caught-up-ms', for a page the mark this node had before the
-- page was read ('0' for none, see ap_marks); largest drift in ms; number of entries.
-- Then per entry: key, version, kind, value, replaces (the field rep of the value it was copied from, see _ap.lua).
-- A version beyond the drift is parked: kept and counted, neither applied nor dropped.
-- Returns {'OK', applied, lost, parked, clock in ms, {loser's key, loser's version, ...}, {key, version, ...} of those that
-- were held under this version with another content}, or {'CURSOR', the record held}, or {'MARK', the mark held}:
-- tombstones were collected since the page was read.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[8] ~= '*' then
  local held = redis.call('HGET', KEYS[2], ARGV[7]) or ''
  if held ~= ARGV[8] then return {'CURSOR', held} end
else
  local mark = redis.call('HGET', KEYS[3], 'mark') or '0'
  if mark ~= ARGV[9] then return {'MARK', mark} end
end
local now = now_ms()
local limit = string.format('%012x', now + tonumber(ARGV[10]))
for i = 1, tonumber(ARGV[11]) do
  local a = 11 + (i - 1) * 5
  take(ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], '', ARGV[a + 5], limit, KEYS[4], ARGV[8] ~= '*')
end
if top ~= '' then raise_hlc(KEYS[3], top) end
if ARGV[8] ~= '*' then redis.call('HSET', KEYS[2], ARGV[7], ARGV[9]) end
return {'OK', applied, lost, parked, string.format('%d', now), losers, twins}
