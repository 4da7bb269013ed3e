-- Count a job among those of a key that have not ended, unless there are enough. Returns 1 or 0.
-- One that is being submitted counts for a minute though it is not known yet.
-- ARGV: key of the set, job, most
local now = now_ms()
for _, job in ipairs(redis.call('ZRANGE', ARGV[1], 0, -1)) do
  local since = tonumber(redis.call('ZSCORE', ARGV[1], job))
  if redis.call('SISMEMBER', P .. 'live', job) == 0 and (now - since > 60000 or redis.call('EXISTS', job_key(job)) == 1) then
    redis.call('ZREM', ARGV[1], job)
  end
end
if redis.call('ZSCORE', ARGV[1], ARGV[2]) then return 1 end
if redis.call('ZCARD', ARGV[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', ARGV[1], now, ARGV[2])
return 1
