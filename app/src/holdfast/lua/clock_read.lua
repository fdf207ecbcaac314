#!lua flags=allow-oom
-- The node's clock, for judging it by the others' (clocks.py). No keys, no arguments. Returns {'OK', ms since the epoch}.
local t = redis.call('TIME')
return {'OK', string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000))}
