-- Ask for a job to stop. Shards that wait end here, shards that run are told. Returns 'unknown', 'over' or 'ok'.
-- ARGV: job
local job = ARGV[1]
local j = redis.call('HMGET', job_key(job), 'state', 'n_shards', 'class')
if not j[1] then return 'unknown' end
if is_over(j[1]) then return 'over' end
for index = 0, tonumber(j[2]) - 1 do
  if redis.call('HGET', shard_key(job, index), 'state') == 'pending' then
    redis.call('ZREM', pending_key(j[3]), job .. '/' .. index)
    end_shard(job, index, 'cancelled')
  end
end
local _, running = roll_up(job)
if running > 0 then set_state(job, 'cancelling') end
return 'ok'
