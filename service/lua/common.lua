-- Put before every other script: names of keys, the clock, and what several scripts do to a job.
-- A shard is named JOB/INDEX. Its hash and the hash of its job are changed by these scripts alone.

local P = 'equipot:'
local EVENT_HISTORY = 1000
local MOST_WARNINGS = 200
local PRIORITY = 1e12  -- one step of priority outweighs every system that ever waited

local function job_key(job) return P .. 'job:' .. job end
local function shard_key(job, index) return P .. 'shard:' .. job .. ':' .. index end
local function pending_key(class) return P .. 'pending:' .. class end
local function held_key(worker) return P .. 'held:' .. worker end

local function split(name)
  local job, index = string.match(name, '^(.-)/(%d+)$')
  return job, index
end

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function emit(job, kind, data)
  redis.call('XADD', P .. 'events:' .. job, 'MAXLEN', '~', EVENT_HISTORY, '*', 'type', kind, 'data', data)
end

local function is_over(state)
  return state == 'succeeded' or state == 'partially_succeeded' or state == 'failed' or state == 'cancelled'
end

local function has_ended(shard_state)
  return shard_state == 'done' or shard_state == 'failed' or shard_state == 'cancelled'
end

-- The queue is fair among owners (start-time fair queueing, Goyal, Vin and Cheng 1996): a job's place is where its
-- owner's last job ended, counted in systems, but not before the place of what was claimed last. So the first job of
-- somebody new stands before the ten thousandth of somebody else, and among jobs of one owner the first comes first.
local function next_start(class, owner, n_systems)
  local reached = tonumber(redis.call('GET', P .. 'reached:' .. class) or '0')
  local start = math.max(reached, tonumber(redis.call('HGET', P .. 'queued:' .. class, owner) or '0')) + 1
  redis.call('HSET', P .. 'queued:' .. class, owner, string.format('%.0f', start + n_systems))
  return start
end

local function note_reached(class, start)
  local key = P .. 'reached:' .. class
  if tonumber(start or '0') > tonumber(redis.call('GET', key) or '0') then redis.call('SET', key, start) end
end

-- Move a job to another state, keep the clock of its running time, and say so.
local function set_state(job, state)
  local key = job_key(job)
  local old = redis.call('HGET', key, 'state')
  if old == state then return end
  local now = now_ms()
  local since = redis.call('HGET', key, 'running_since')
  local runs = state == 'starting' or state == 'running' or state == 'cancelling'
  if runs and not since then
    redis.call('HSET', key, 'running_since', now)
  elseif not runs and since then
    redis.call('HINCRBY', key, 'ran_ms', now - since)
    redis.call('HDEL', key, 'running_since')
  end
  redis.call('HSET', key, 'state', state)
  if state == 'starting' or state == 'running' then redis.call('HSETNX', key, 'started_ms', now) end
  if is_over(state) then
    redis.call('HSET', key, 'finished_ms', now)
    redis.call('SREM', P .. 'live', job)
  else
    redis.call('HDEL', key, 'finished_ms')
    redis.call('SADD', P .. 'live', job)
  end
  local attempt = tonumber(redis.call('HGET', key, 'attempt') or '0')
  local data = cjson.encode({state = state, attempt = attempt})
  emit(job, 'state', data)
  if is_over(state) then emit(job, 'end', data) end
end

-- Sum a job's shards up into its progress. Returns how many shards have not ended and how many are running.
local function roll_up(job)
  local key = job_key(job)
  local n_shards = tonumber(redis.call('HGET', key, 'n_shards'))
  local unfinished, running, n_done, step, last, attempt, checkpoint = 0, 0, 0, nil, 0, 0, nil
  local outcomes = {}
  for index = 0, n_shards - 1 do
    local s = redis.call('HMGET', shard_key(job, index), 'state', 'step', 'n_done', 'outcomes', 'attempt', 'checkpoint_step')
    local shard_step = tonumber(s[2] or '0')
    if not has_ended(s[1]) then
      unfinished = unfinished + 1
      if not step or shard_step < step then step = shard_step end
    end
    if s[1] == 'running' then running = running + 1 end
    last = math.max(last, shard_step)
    n_done = n_done + tonumber(s[3] or '0')
    attempt = math.max(attempt, tonumber(s[5] or '0'))
    if s[6] and (not checkpoint or tonumber(s[6]) > checkpoint) then checkpoint = tonumber(s[6]) end
    if s[4] then
      for outcome, count in pairs(cjson.decode(s[4])) do outcomes[outcome] = (outcomes[outcome] or 0) + count end
    end
  end
  redis.call('HSET', key, 'step', step or last, 'n_done', n_done, 'outcomes', cjson.encode(outcomes), 'attempt', attempt)
  if checkpoint then redis.call('HSET', key, 'checkpoint_step', checkpoint) end
  return unfinished, running
end

-- `company` says that a crash of the worker could be the fault of another shard it holds. While it holds a shard that
-- must run alone, only that one has turns.
local function mark_company(worker)
  local names = redis.call('SMEMBERS', held_key(worker))
  local alone
  for _, name in ipairs(names) do
    local job, index = split(name)
    if redis.call('HGET', shard_key(job, index), 'alone') == '1' then alone = name end
  end
  for _, name in ipairs(names) do
    local job, index = split(name)
    redis.call('HSET', shard_key(job, index), 'company', (#names == 1 or name == alone) and '0' or '1')
  end
end

-- Take a running shard from its worker. After a crash its former mates keep their mark of company.
local function unlease(name, worker, crashed)
  redis.call('ZREM', P .. 'leases', name)
  redis.call('SREM', held_key(worker), name)
  if not crashed then mark_company(worker) end
end

-- Count the systems of a shard that have no outcome under one name.
local function fill_outcomes(key, outcome)
  local s = redis.call('HMGET', key, 'outcomes', 'n_systems')
  local outcomes, counted = cjson.decode(s[1] or '{}'), 0
  for _, count in pairs(outcomes) do counted = counted + count end
  local missing = tonumber(s[2]) - counted
  if missing > 0 then outcomes[outcome] = (outcomes[outcome] or 0) + missing end
  redis.call('HSET', key, 'outcomes', cjson.encode(outcomes))
end

-- End a shard in `state`; systems without an outcome are counted as failed or cancelled.
local function end_shard(job, index, state, problem)
  local key = shard_key(job, index)
  redis.call('HSET', key, 'state', state)
  if problem and problem ~= '' then
    redis.call('HSET', key, 'error', problem)
    redis.call('HSETNX', job_key(job), 'error', problem)
  end
  if state ~= 'done' then fill_outcomes(key, state) end
end

-- Give a shard that was running back to the queue, or end it if its job is being cancelled.
local function put_back(job, index)
  local key, name = job_key(job), job .. '/' .. index
  local j = redis.call('HMGET', key, 'state', 'class', 'score')
  if j[1] == 'cancelling' then
    end_shard(job, index, 'cancelled')
  else
    redis.call('HSET', shard_key(job, index), 'state', 'pending')
    redis.call('ZADD', pending_key(j[2]), j[3], name)
  end
  local _, running = roll_up(job)
  if running == 0 and j[1] ~= 'cancelling' then set_state(job, 'queued') end
end

-- Whether an attempt still owns its shard: nobody claimed after it and its lease was not taken away.
local function owns(name, attempt, worker)
  local job, index = split(name)
  local s = redis.call('HMGET', shard_key(job, index), 'state', 'attempt', 'worker')
  return s[1] == 'running' and s[2] == attempt and s[3] == worker
end
