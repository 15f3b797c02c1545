-- A new registration. KEYS: nodes, epoch; ARGV: registration, the epoch that begins if there is none.
-- Returns the epoch: another one than before means that all data was lost meanwhile.
redis.call('SETNX', KEYS[2], ARGV[2])
redis.call('HSETNX', KEYS[1], ARGV[1], 1)
return redis.call('GET', KEYS[2])
