-- How far a shard is, and its events. A new checkpoint clears the memory of crashes. Returns 'ok', 'cancel' or 'lost'.
-- ARGV: name, attempt, worker, lease ms, step, n_done, outcomes JSON, checkpoint step or '', 1 if it is new, events JSON
local name = ARGV[1]
if not owns(name, ARGV[2], ARGV[3]) then return 'lost' end
local job, index = split(name)
local key = shard_key(job, index)
redis.call('ZADD', P .. 'leases', now_ms() + tonumber(ARGV[4]), name)
redis.call('HSET', key, 'step', ARGV[5], 'n_done', ARGV[6], 'outcomes', ARGV[7])
if ARGV[8] ~= '' then redis.call('HSET', key, 'checkpoint_step', ARGV[8]) end
if ARGV[9] == '1' then redis.call('HSET', key, 'crashes', 0, 'alone', '0') mark_company(ARGV[3]) end
roll_up(job)
for _, event in ipairs(cjson.decode(ARGV[10])) do
  emit(job, event[1], event[2])
  if event[1] == 'warning' and redis.call('LLEN', P .. 'warnings:' .. job) < MOST_WARNINGS then
    redis.call('RPUSH', P .. 'warnings:' .. job, event[2])
  end
end
local j = redis.call('HMGET', job_key(job), 'step', 'n_done', 'state', 'static')
local static = cjson.decode(j[4])
emit(job, 'progress', cjson.encode({step = tonumber(j[1]), n_done = tonumber(j[2]), n_steps = static.n_steps, n_systems = static.n_systems}))
return j[3] == 'cancelling' and 'cancel' or 'ok'
