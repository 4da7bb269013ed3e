-- Take shards from workers that are gone. Returns the jobs concerned.
-- A crash counts only against a shard that ran alone; those that ran together run alone from now on.
-- ARGV: crashes before giving up, problem JSON for giving up, whose: a worker, 'all', or '' for leases that ran out
local most, problem, whose = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local names
if whose == '' then
  names = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now_ms())
elseif whose == 'all' then
  names = redis.call('ZRANGE', P .. 'leases', 0, -1)
else
  names = redis.call('SMEMBERS', held_key(whose))
end
local jobs = {}
for _, name in ipairs(names) do
  local job, index = split(name)
  local key = shard_key(job, index)
  local s = redis.call('HMGET', key, 'state', 'worker', 'company')
  if s[1] ~= 'running' then
    redis.call('ZREM', P .. 'leases', name)
    if whose ~= '' and whose ~= 'all' then redis.call('SREM', held_key(whose), name) end
  else
    unlease(name, s[2], true)
    local crashes = 0
    if s[3] == '1' then
      redis.call('HSET', key, 'alone', '1', 'company', '0')
    else
      crashes = redis.call('HINCRBY', key, 'crashes', 1)
    end
    if crashes >= most then
      end_shard(job, index, 'failed', problem)
      roll_up(job)
    else
      put_back(job, index)
    end
    jobs[#jobs + 1] = job
  end
end
return jobs
