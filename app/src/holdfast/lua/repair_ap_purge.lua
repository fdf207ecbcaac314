#!lua
-- include _guard
-- include _ap
-- Repair, on a node that is healed and whose AP data is from before a collection: remove one page of the entries at or
-- below the floor, parked ones too; the sources have them, or collected them. KEYS: guard, parked, peers. ARGV[7..10]:
-- SCAN cursor, COUNT, floor (a version), a record for peers; then the origins. With the cursor '0' parked entries are looked
-- at, all at once, and each origin gets the record: a full merge that the zone's replicator began before this cannot end as
-- a complete one. Touches ap:* keys by name (one server, no cluster). Returns {'OK', next cursor, number removed, the server's run id}.
local refusal = guard_refusal()
if refusal then return refusal end
local removed = 0
local function old(version)
  return not older(ARGV[9], version)
end
if ARGV[7] == '0' then
  for i = 11, #ARGV do redis.call('HSET', KEYS[3], ARGV[i], ARGV[10]) end
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    if old(string.sub(all[i], 1, string.find(all[i], '|', 1, true) - 1)) then
      redis.call('HDEL', KEYS[2], all[i])
      removed = removed + 1
    end
  end
end
local page = redis.call('SCAN', ARGV[7], 'MATCH', 'ap:*', 'COUNT', ARGV[8])
for _, key in ipairs(page[2]) do
  local version = redis.call('HGET', key, 'ver')
  if version and old(version) then
    redis.call('HDEL', key, 'ver', 'k', 'v')
    removed = removed + 1
  end
end
return {'OK', page[1], removed, string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
