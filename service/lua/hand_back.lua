-- A worker gives a shard back unharmed: not a failed attempt. Returns 'ok' or 'lost'.
-- ARGV: name, attempt, worker
if not owns(ARGV[1], ARGV[2], ARGV[3]) then return 'lost' end
local job, index = split(ARGV[1])
unlease(ARGV[1], ARGV[3], false)
put_back(job, index)
return 'ok'
