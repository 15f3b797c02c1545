-- Declares a registration dead unless its counter has moved. KEYS: nodes; ARGV: registration, the counter that was seen,
-- or '' for the node that gives up its own.
local counter = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '' or counter == ARGV[2] then
  redis.call('HSET', KEYS[1], ARGV[1], 'dead')
  return 1
end
return 0
