-- Count a request if it is allowed. Returns 0, or how many ms to wait.
-- The allowance fills evenly and holds at most what is allowed in one period (the generic cell rate algorithm).
-- ARGV: key, requests allowed in a period, period in ms
local interval, now = tonumber(ARGV[3]) / tonumber(ARGV[2]), now_ms()
local due = math.max(tonumber(redis.call('GET', ARGV[1]) or '0'), now)
local early = due + interval - now - tonumber(ARGV[3])
if early > 0.5 then return math.ceil(early) end
redis.call('SET', ARGV[1], string.format('%.3f', due + interval), 'PX', 2 * tonumber(ARGV[3]))
return 0
