-- Put the shards of an ended job that did not end well back into the queue. Returns how many; -1 unknown, -2 not over.
-- ARGV: job
local job, key = ARGV[1], job_key(ARGV[1])
local j = redis.call('HMGET', key, 'state', 'n_shards', 'class', 'score')
if not j[1] then return -1 end
if not is_over(j[1]) then return -2 end
local resumed = 0
for index = 0, tonumber(j[2]) - 1 do
  local shard = shard_key(job, index)
  local state = redis.call('HGET', shard, 'state')
  if state == 'failed' or state == 'cancelled' then
    redis.call('HSET', shard, 'state', 'pending', 'crashes', 0, 'alone', '0', 'company', '0', 'outcomes', '{}', 'n_done', 0)
    redis.call('HDEL', shard, 'error')
    redis.call('ZADD', pending_key(j[3]), j[4], job .. '/' .. index)
    resumed = resumed + 1
  end
end
if resumed == 0 then return 0 end
redis.call('HDEL', key, 'error', 'finished_ms')
redis.call('HSET', key, 'ran_ms', 0)
roll_up(job)
set_state(job, 'queued')
return resumed
