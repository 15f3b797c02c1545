-- Takes some members of a dead registration out of a topic. KEYS: members, count, in, topics, nodes;
-- ARGV: registration, topic, how many. Returns how many are left, the members that were the last of their client id, and
-- what the server did not do because a key holds something else: that must not keep the rest from being swept.
-- A master that hung, and does not know yet that there is another one, was told of no death, nor of what replaces the dead.
if redis.call('HGET', KEYS[5], ARGV[1]) ~= 'dead' then
  return redis.error_reply('ALIVE as far as this server knows')
end
local failed = ''
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    failed = reply.err
    return nil
  end
  return reply
end
local some = call('HRANDFIELD', KEYS[1], ARGV[3], 'WITHVALUES') or {}
local gone = {}
for i = 1, #some, 2 do
  local member = some[i + 1]
  redis.call('HDEL', KEYS[1], some[i])
  local size, rest = string.match(member, '^(%d+):(.*)$')
  local id = string.sub(rest or '', 1, tonumber(size or 0))
  if (call('HINCRBY', KEYS[2], id, -1) or 0) <= 0 then
    call('HDEL', KEYS[2], id)
    table.insert(gone, some[i])
    table.insert(gone, member)
  end
end
local left = call('HLEN', KEYS[1]) or 0
if left == 0 then
  call('SREM', KEYS[3], ARGV[1])
  redis.call('SREM', KEYS[4], ARGV[2])
end
return {left, gone, failed}
