-- Prepended, after _ap, to the scripts that apply other nodes' entries.

local applied, lost, parked, losers, top = 0, 0, 0, {}, ''

-- Merge one entry by last-writer-wins, or park it when its version is beyond the limit (12 hex digits of milliseconds).
-- replaces ('' for none): a version too far in the future that the origin wrote anew as this one. It is removed where it
-- is parked, and replaced where it is held although it is larger.
local function take(key, version, kind, value, prev, replaces, limit, parked_key, name_losers)
  if replaces ~= '' then
    redis.call('HDEL', parked_key, replaces .. '|' .. key)
  end
  if string.sub(version, 10, 21) > limit then
    redis.call('HSET', parked_key, version .. '|' .. key, cmsgpack.pack({kind, value, prev, replaces}))
    parked = parked + 1
    return
  end
  local outcome, met, before = merge('ap:' .. key, version, kind, value, prev, replaces)
  if outcome == 'applied' then
    applied = applied + 1
  elseif outcome == 'lost' then
    lost = lost + 1
  end
  if met and name_losers and #losers < 200 then
    losers[#losers + 1] = key
    losers[#losers + 1] = outcome == 'lost' and version or before
  end
  local hlc = string.sub(version, 10, 25)
  if hlc > top then top = hlc end
end
