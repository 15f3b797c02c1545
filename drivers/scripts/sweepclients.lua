-- Takes some connections of a dead registration back, unless they have been registered anew. KEYS: conns, nodes;
-- ARGV: registration, how the keys of clients begin, how many. Returns how many are left, and a key that holds something
-- else: that must not keep the rest from being swept.
if redis.call('HGET', KEYS[2], ARGV[1]) ~= 'dead' then -- see sweeptopic.lua
  return redis.error_reply('ALIVE as far as this server knows')
end
local some = redis.call('HRANDFIELD', KEYS[1], ARGV[3], 'WITHVALUES')
local failed = ''
for i = 1, #some, 2 do
  local client = ARGV[2] .. some[i + 1]
  local known = redis.pcall('HGET', client, some[i])
  if type(known) == 'table' then
    failed = client
  elseif known and string.sub(known, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
    redis.call('HDEL', client, some[i])
  end
  redis.call('HDEL', KEYS[1], some[i])
end
return {redis.call('HLEN', KEYS[1]), failed}
