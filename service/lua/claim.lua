-- Give a worker the next shard. Returns nil, or {name, attempt, static JSON, offset, n_systems, ran_ms, alone}.
-- ARGV: worker, nonce of this call, lease ms, most shards of one owner, device of the worker, classes it serves ...
local worker, nonce, lease_ms, most, device = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local function answer(name)
  local job, index = split(name)
  local s = redis.call('HMGET', shard_key(job, index), 'attempt', 'offset', 'n_systems', 'alone')
  local j = redis.call('HMGET', job_key(job), 'static', 'ran_ms', 'running_since')
  local ran = tonumber(j[2] or '0')
  if j[3] then ran = ran + now_ms() - tonumber(j[3]) end
  return {name, s[1], j[1], s[2], s[3], tostring(ran), s[4] or '0'}
end

local held, jobs_held, held_of = redis.call('SMEMBERS', held_key(worker)), {}, {}
for _, name in ipairs(held) do  -- the answer to this very call was lost on the way
  local job, index = split(name)
  local s = redis.call('HMGET', shard_key(job, index), 'nonce', 'alone')
  if s[1] == nonce then return answer(name) end
  if s[2] == '1' then return nil end
  jobs_held[job] = true
  local owner = redis.call('HGET', job_key(job), 'owner') or ''
  held_of[owner] = (held_of[owner] or 0) + 1
end

local function has_room(job)
  return not jobs_held[job] and (held_of[redis.call('HGET', job_key(job), 'owner') or ''] or 0) < most
end

for position = 6, #ARGV do
  local pending = pending_key(ARGV[position])
  for _, name in ipairs(redis.call('ZRANGE', pending, 0, 31)) do
    local job, index = split(name)
    local key = shard_key(job, index)
    if redis.call('HGET', key, 'state') ~= 'pending' then
      redis.call('ZREM', pending, name)
    elseif has_room(job) then
      redis.call('ZREM', pending, name)
      redis.call('HINCRBY', key, 'attempt', 1)
      redis.call('HSET', key, 'state', 'running', 'worker', worker, 'nonce', nonce)
      redis.call('ZADD', P .. 'leases', now_ms() + lease_ms, name)
      redis.call('SADD', held_key(worker), name)
      mark_company(worker)
      roll_up(job)
      redis.call('HSET', job_key(job), 'worker', worker, 'device', device)
      note_reached(ARGV[position], redis.call('HGET', job_key(job), 'start'))
      if redis.call('HGET', job_key(job), 'state') == 'queued' then set_state(job, 'starting') end
      return answer(name)
    end
  end
end
return nil
