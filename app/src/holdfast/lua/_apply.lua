-- Prepended, after _ap, to the scripts that apply other nodes' entries.

local applied, lost, parked, losers, top, twins = 0, 0, 0, {}, '', {}

-- Merge one entry by last-writer-wins, or park it when its version is beyond the limit (12 hex digits of milliseconds).
-- replaces ('' for none): versions too far in the future that the origin wrote anew (see _ap.lua), with this entry or with
-- what was there before. They are removed where they are parked, and replaced where they are held although they are larger.
local function take(key, version, kind, value, prev, replaces, limit, parked_key, name_losers)
  if string.sub(version, 10, 21) > limit then
    for other in string.gmatch(replaces, '%S+') do redis.call('HDEL', parked_key, other .. '|' .. key) end
    if names(redis.call('HGET', 'ap:' .. key, 'rep') or '', version) then return end
    redis.call('HSET', parked_key, version .. '|' .. key, cmsgpack.pack({kind, value, prev, replaces}))
    parked = parked + 1
    return
  end
  local outcome, met, before = merge('ap:' .. key, version, kind, value, prev, replaces, parked_key)
  if outcome == 'applied' then
    applied = applied + 1
  elseif outcome == 'lost' then
    lost = lost + 1
  elseif outcome == 'twin' then
    twins[#twins + 1] = key
    twins[#twins + 1] = version
  end
  if met and name_losers and #losers < 200 then
    losers[#losers + 1] = key
    losers[#losers + 1] = outcome == 'lost' and version or before
  end
  local hlc = string.sub(version, 10, 25)
  if hlc > top then top = hlc end
end
