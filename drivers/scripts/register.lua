-- Makes a connection known under a number. KEYS: nodes, number, client, conns;
-- ARGV[4] connection, [5] client, [6] member, [7] number: 0 for the next one.
-- The next number is at least the time in microseconds, so that numbers grow also after all data was lost.
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
if not last then
  return redis.error_reply('ERR ' .. KEYS[2] .. ' is not an integer')
end
local number = tonumber(ARGV[7])
if number == 0 then
  local now = redis.call('TIME')
  number = math.max(last + 1, now[1] * 1000000 + now[2])
end
local text = string.format('%.0f', number)
if number > last then
  redis.call('SET', KEYS[2], text)
end
redis.call('HSET', KEYS[3], ARGV[4], ARGV[1] .. ' ' .. text .. ' ' .. ARGV[6])
redis.call('HSET', KEYS[4], ARGV[4], ARGV[5])
return text
