-- Begins every script that writes presence. KEYS[1] nodes; ARGV: registration, acknowledged, number of this write.
-- A counter that is missing or behind what the server has acknowledged means that data was lost, or that others have
-- declared the node dead: it must register anew.
local counter = redis.call('HGET', KEYS[1], ARGV[1])
if not counter or counter == 'dead' or tonumber(counter) < tonumber(ARGV[2]) then
  return redis.error_reply('LOST the registration of this node')
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
