-- Returns 1 when the client id has no connection in the topic any more. KEYS: nodes, members, count, in, topics;
-- ARGV[4] connection, [5] client id, [6] topic.
if redis.call('HDEL', KEYS[2], ARGV[4]) == 0 then
  return 0
end
if redis.call('HLEN', KEYS[2]) == 0 then
  redis.call('SREM', KEYS[4], ARGV[1])
  redis.call('SREM', KEYS[5], ARGV[6])
end
if redis.call('HINCRBY', KEYS[3], ARGV[5], -1) > 0 then
  return 0
end
redis.call('HDEL', KEYS[3], ARGV[5])
return 1
