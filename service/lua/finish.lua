-- End a job whose shards have all ended. Returns 1 if this call did it.
-- ARGV: job, state
local job = ARGV[1]
local state = redis.call('HGET', job_key(job), 'state')
if not state or is_over(state) then return 0 end
if roll_up(job) > 0 then return 0 end
set_state(job, ARGV[2])
return 1
