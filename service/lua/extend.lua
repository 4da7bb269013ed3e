-- Put shards of an ended job back into the queue with other parameters. Returns how many; -1 unknown, -2 not over.
-- ARGV: job, static JSON, indices of the shards that go on as JSON
local job, key = ARGV[1], job_key(ARGV[1])
local j = redis.call('HMGET', key, 'state', 'class', 'score')
if not j[1] then return -1 end
if not is_over(j[1]) then return -2 end
local indices = cjson.decode(ARGV[3])
for _, index in ipairs(indices) do
  redis.call('HSET', shard_key(job, index), 'state', 'pending', 'crashes', 0, 'alone', '0', 'company', '0', 'outcomes', '{}', 'n_done', 0)
  redis.call('ZADD', pending_key(j[2]), j[3], job .. '/' .. index)
end
redis.call('HDEL', key, 'finished_ms')
redis.call('HSET', key, 'static', ARGV[2], 'ran_ms', 0)
roll_up(job)
set_state(job, 'queued')
return #indices
