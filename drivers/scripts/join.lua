-- Returns 1 when the client id had no connection in the topic. KEYS: nodes, members, count, in, topics;
-- ARGV[4] connection, [5] client id, [6] member, [7] topic.
if redis.call('HSET', KEYS[2], ARGV[4], ARGV[6]) == 0 then
  return 0
end
if redis.call('HLEN', KEYS[2]) == 1 then
  redis.call('SADD', KEYS[4], ARGV[1])
  redis.call('SADD', KEYS[5], ARGV[7])
end
return redis.call('HINCRBY', KEYS[3], ARGV[5], 1) == 1 and 1 or 0
