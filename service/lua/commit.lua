-- End a shard for good: its result is on disk. Returns 'ok' or 'lost'.
-- ARGV: name, attempt, worker, state done | failed | cancelled, step, n_done, outcomes JSON, problem JSON or ''
local name, attempt, worker, state = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local job, index = split(name)
local key = shard_key(job, index)
if not owns(name, attempt, worker) then
  local s = redis.call('HMGET', key, 'state', 'attempt', 'worker')
  if s[1] == state and s[2] == attempt and s[3] == worker then return 'ok' end  -- said twice
  return 'lost'
end
redis.call('HSET', key, 'step', ARGV[5], 'n_done', ARGV[6], 'outcomes', ARGV[7])
end_shard(job, index, state, ARGV[8])
unlease(name, worker, false)
roll_up(job)
return 'ok'
