#!lua
-- include _guard
-- include _ap
-- Replication, on the reader: apply a batch of one origin's entries and move the cursor, in one step.
-- KEYS: guard, peers, AP state, parked, then the value's key of each entry.
-- ARGV[7..11]: origin; the record expected in peers ('' for none, '*' for a page of a full merge: the record is neither
-- compared nor changed); the new record 'incarnation sequence caught-up-ms'; largest drift in ms; number of entries.
-- Then per entry: key, version, kind, value, prev.
-- Nothing is ever added to the outbox here: only an origin emits, so there are no loops.
-- A version beyond the drift is parked: kept and counted, neither applied nor dropped.
-- Returns {'OK', applied, lost, parked, clock in ms, {loser's key, loser's version, ...}} or {'CURSOR', the record held}.
local refusal = guard_refusal()
if refusal then return refusal end
if ARGV[8] ~= '*' then
  local held = redis.call('HGET', KEYS[2], ARGV[7]) or ''
  if held ~= ARGV[8] then return {'CURSOR', held} end
end
local now = now_ms()
local limit = now + tonumber(ARGV[10])
local applied, lost, parked, losers, top = 0, 0, 0, {}, ''
for i = 1, tonumber(ARGV[11]) do
  local a = 11 + (i - 1) * 5
  local key, version, kind, value, prev = ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4], ARGV[a + 5]
  if version_ms(version) > limit then
    redis.call('HSET', KEYS[4], version .. '|' .. key, cmsgpack.pack({kind, value, prev}))
    parked = parked + 1
  else
    local before = redis.call('HGET', KEYS[4 + i], 'ver')
    local outcome, met = merge(KEYS[4 + i], version, kind, value, prev)
    if outcome == 'applied' then
      applied = applied + 1
    elseif outcome == 'lost' then
      lost = lost + 1
    end
    if met and ARGV[8] ~= '*' and #losers < 200 then
      losers[#losers + 1] = key
      losers[#losers + 1] = outcome == 'lost' and version or before
    end
    local hlc = string.sub(version, 10, 25)
    if hlc > top then top = hlc end
  end
end
if top ~= '' then raise_hlc(KEYS[3], top) end
if ARGV[8] ~= '*' then redis.call('HSET', KEYS[2], ARGV[7], ARGV[9]) end
return {'OK', applied, lost, parked, string.format('%d', now), losers}
