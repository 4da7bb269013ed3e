-- A claimed shard computes from now on. Returns 'ok', 'cancel' or 'lost'.
-- ARGV: name, attempt, worker
if not owns(ARGV[1], ARGV[2], ARGV[3]) then return 'lost' end
local job = split(ARGV[1])
local state = redis.call('HGET', job_key(job), 'state')
if state == 'cancelling' then return 'cancel' end
if state == 'starting' then set_state(job, 'running') end
return 'ok'
