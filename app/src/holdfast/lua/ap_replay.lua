#!lua
-- include _guard
-- include _ap
-- include _apply
-- Replication, on the reader: apply a batch of one origin's outbox as ap_pull packed it and move the cursor, in one
-- step. KEYS: guard, peers, AP state, parked; touches ap:* keys by name (one server, no cluster).
-- ARGV[7..11]: origin; the record expected in peers ('' for none); the new record 'incarnation sequence caught-up-ms';
-- largest drift in ms; the batch. Nothing is ever added to the outbox here: only an origin emits, so there are no loops.
-- Returns what ap_apply returns.
local refusal = guard_refusal()
if refusal then return refusal end
local cursor = redis.call('HGET', KEYS[2], ARGV[7]) or ''
if cursor ~= ARGV[8] then return {'CURSOR', cursor} end
local now = now_ms()
local limit = string.format('%012x', now + tonumber(ARGV[10]))
local rows = cmsgpack.unpack(ARGV[11])
for i = 1, #rows, 6 do
  take(rows[i], rows[i + 1], rows[i + 2], rows[i + 3], rows[i + 4], rows[i + 5], limit, KEYS[4], true)
end
if top ~= '' then raise_hlc(KEYS[3], top) end
redis.call('HSET', KEYS[2], ARGV[7], ARGV[9])
return {'OK', applied, lost, parked, string.format('%d', now), losers, twins}
