-- What waits in the queue of a class of devices: shards, systems, atoms.
-- ARGV: class
local names = redis.call('ZRANGE', pending_key(ARGV[1]), 0, -1)
local systems, atoms = 0, 0
for _, name in ipairs(names) do
  local job, index = split(name)
  local s = redis.call('HMGET', shard_key(job, index), 'n_systems', 'n_atoms')
  systems = systems + tonumber(s[1] or '0')
  atoms = atoms + tonumber(s[2] or '0')
end
return {#names, systems, atoms}
