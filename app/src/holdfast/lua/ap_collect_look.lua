#!lua flags=allow-oom
-- include _guard
-- include _ap
-- AP collection: what this node holds, has written and has applied, in one step. KEYS: guard, AP state, peers, parked,
-- then the value's key of each entry. Changes nothing.
-- Returns {'OK', clock in ms, last sequence minted here, mark, mark of the last batch that removed something here,
-- {origin, 'incarnation sequence caught-up-ms', ...}, {version, kind, ...} of each key ('' if nothing), {parked key, ...},
-- 1 if more is parked than is named}.
local refusal = guard_refusal()
if refusal then return refusal end
local st = redis.call('HMGET', KEYS[2], 'seq', 'mark', 'done')
local held, parked, more = {}, {}, 0
for i = 5, #KEYS do
  local r = redis.call('HMGET', KEYS[i], 'ver', 'k')
  held[#held + 1] = r[1] or ''
  held[#held + 1] = r[2] or ''
end
if #KEYS > 4 then
  -- Parked entries are rare; what is not named holds up every key.
  if redis.call('HLEN', KEYS[4]) > 100 then
    more = 1
  else
    local all = redis.call('HGETALL', KEYS[4])
    for i = 1, #all, 2 do
      parked[#parked + 1] = string.sub(all[i], string.find(all[i], '|', 1, true) + 1)
    end
  end
end
return {'OK', string.format('%d', now_ms()), st[1] or '0', st[2] or '0', st[3] or '0', redis.call('HGETALL', KEYS[3]),
  held, parked, more}
