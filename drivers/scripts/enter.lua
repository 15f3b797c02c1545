-- A new registration. KEYS: nodes; ARGV: registration.
return redis.call('HSETNX', KEYS[1], ARGV[1], 1)
