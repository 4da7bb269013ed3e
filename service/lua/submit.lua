-- Make a job known, or bring one back from its directory. Returns 'ok', 'known' or 'full'.
-- ARGV: job, static JSON, score or '', class, most live jobs or '', idempotency key or '', its value, its seconds, shards JSON, kept JSON
local job, shards, kept = ARGV[1], cjson.decode(ARGV[9]), cjson.decode(ARGV[10])
local key = job_key(job)
if redis.call('EXISTS', key) == 1 then return 'known' end
if ARGV[5] ~= '' and redis.call('SCARD', P .. 'live') >= tonumber(ARGV[5]) then return 'full' end

local static = cjson.decode(ARGV[2])
local owner = type(static.owner) == 'string' and static.owner or ''
local start = next_start(ARGV[4], owner, static.n_systems)
local score = -PRIORITY * tonumber(ARGV[3] ~= '' and ARGV[3] or '0') + start
redis.call('HSET', key, 'static', ARGV[2], 'class', ARGV[4], 'score', string.format('%.0f', score),
  'owner', owner, 'start', string.format('%.0f', start), 'n_shards', #shards, 'ran_ms', 0)
for field, value in pairs(kept) do redis.call('HSET', key, field, value) end
for index, shard in ipairs(shards) do
  for field, value in pairs(shard) do redis.call('HSET', shard_key(job, index - 1), field, value) end
  if shard.state == 'pending' then
    redis.call('ZADD', pending_key(ARGV[4]), string.format('%.0f', score), job .. '/' .. (index - 1))
  end
end
redis.call('ZADD', P .. 'jobs', 0, job)
if ARGV[6] ~= '' then redis.call('SET', ARGV[6], ARGV[7], 'EX', ARGV[8]) end
roll_up(job)
if not kept.state then set_state(job, 'queued') end
return 'ok'
