-- Forgets a dead registration that has nothing left. KEYS: nodes, conns, topics; ARGV: registration.
if redis.call('EXISTS', KEYS[2], KEYS[3]) == 0 and redis.call('HGET', KEYS[1], ARGV[1]) == 'dead' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
