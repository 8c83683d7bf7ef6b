-- SUBSCRIBE: what a worker's tasks say about one event; what nobody has renewed for the retention time goes.
-- KEYS  1 triggers of the event
-- ARGV  1 retention in ms, then field and value of each task ('' = it does not start on this event)
-- Returns how many subscriptions the event has
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], ARGV[i])
  else
    redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f ', now) .. ARGV[i + 1])
  end
end
local all = redis.call('HGETALL', KEYS[1])
local left = #all / 2
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+')) < now - tonumber(ARGV[1]) then
    redis.call('HDEL', KEYS[1], all[i])
    left = left - 1
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return left
