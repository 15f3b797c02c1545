-- KEYS: nodes, client, conns; ARGV[4] connection.
redis.call('HDEL', KEYS[2], ARGV[4])
return redis.call('HDEL', KEYS[3], ARGV[4])
