-- Whether to put one more wake-up ticket into a queue: never more of them than workers. Returns 1 or 0.
-- A reservation stands for a ticket about to be put there; it and the ticket change places in one transaction.
-- ARGV: RQ queue key, reservations key, most tickets, token, ms a reservation holds
local now = now_ms()
redis.call('ZREMRANGEBYSCORE', ARGV[2], '-inf', now)
if redis.call('LLEN', ARGV[1]) + redis.call('ZCARD', ARGV[2]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', ARGV[2], now + tonumber(ARGV[5]), ARGV[4])
return 1
