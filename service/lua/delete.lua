-- Forget a job that has ended. Returns 'unknown', 'live' or 'ok'.
-- ARGV: job, 1 to forget it whatever its state
local job, key = ARGV[1], job_key(ARGV[1])
local j = redis.call('HMGET', key, 'state', 'n_shards', 'class')
if not j[1] then return 'unknown' end
if not is_over(j[1]) and ARGV[2] ~= '1' then return 'live' end
for index = 0, tonumber(j[2]) - 1 do
  local name = job .. '/' .. index
  redis.call('ZREM', pending_key(j[3]), name)
  redis.call('ZREM', P .. 'leases', name)
  local worker = redis.call('HGET', shard_key(job, index), 'worker')
  if worker then redis.call('SREM', held_key(worker), name) end
  redis.call('DEL', shard_key(job, index))
end
redis.call('DEL', key, P .. 'events:' .. job, P .. 'warnings:' .. job)
redis.call('ZREM', P .. 'jobs', job)
redis.call('SREM', P .. 'live', job)
return 'ok'
