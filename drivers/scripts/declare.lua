-- Declares registrations dead. KEYS: nodes; ARGV[1] the counter that was seen: one that has moved is alive. It is '' for a
-- node that gives up its own. The other ARGV: registrations. Returns those that are dead now.
local dead = {}
for i = 2, #ARGV do
  if ARGV[1] == '' or redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[1] then
    redis.call('HSET', KEYS[1], ARGV[i], 'dead')
    table.insert(dead, ARGV[i])
  end
end
return dead
