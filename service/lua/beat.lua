-- Signs of life of a worker for all its shards. Returns 'ok', 'cancel' or 'lost' for each.
-- ARGV: worker, lease ms, then name, attempt for each shard
local lease, answers = now_ms() + tonumber(ARGV[2]), {}
for position = 3, #ARGV, 2 do
  local name = ARGV[position]
  if owns(name, ARGV[position + 1], ARGV[1]) then
    redis.call('ZADD', P .. 'leases', lease, name)
    local job = split(name)
    local cancelling = redis.call('HGET', job_key(job), 'state') == 'cancelling'
    answers[#answers + 1] = cancelling and 'cancel' or 'ok'
  else
    answers[#answers + 1] = 'lost'
  end
end
return answers
