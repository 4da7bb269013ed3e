-- The number of an attempt was used before (Redis had lost it): go on with a larger one. Returns 1 or 0.
-- ARGV: name, attempt, worker, new attempt
if not owns(ARGV[1], ARGV[2], ARGV[3]) then return 0 end
local job, index = split(ARGV[1])
redis.call('HSET', shard_key(job, index), 'attempt', ARGV[4])
roll_up(job)
return 1
