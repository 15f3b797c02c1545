-- Raises the counter, sends the node a sign by way of its own subscription, and returns all counters.
-- ARGV[4] PUBLISH or SPUBLISH, ARGV[5] the node's channel.
redis.call(ARGV[4], ARGV[5], 'beat')
return redis.call('HGETALL', KEYS[1])
