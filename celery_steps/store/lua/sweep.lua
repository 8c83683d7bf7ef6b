-- SWEEP: what is due for one app in one partition. Each ticket is pushed on by a lease, then doubling while nobody claims, so that one sweeper publishes it.
-- KEYS  1 due tickets
-- ARGV  1 prefix, 2 how many at most, 3 one member to take instead ('' = whatever is due)
-- Returns {ms until the next is due or -1, member, member, ...}
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(number) return string.format('%.0f', number) end
local due
if ARGV[3] == '' then
  due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', '0', ARGV[2])
else
  local at = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[3]) or '')
  due = at and at <= now and {ARGV[3]} or {}
end
for _, member in ipairs(due) do
  local ns, t = string.match(member, '^(%S+) (%S+)$')
  local R = ARGV[1] .. 'run:' .. ns
  local pushes = tonumber(redis.call('HGET', R, t .. ':pushes') or '') or 0
  local ttl = tonumber(redis.call('HGET', R, 'ttl') or '') or 30000
  if redis.call('EXISTS', R) == 1 then
    redis.call('HSET', R, t .. ':pushes', text(pushes + 1))
    redis.call('ZADD', KEYS[1], text(now + ttl * 2 ^ math.min(pushes, 7)), member)
  else -- its namespace is gone: reported once, not for ever
    redis.call('ZREM', KEYS[1], member)
  end
end
local first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
table.insert(due, 1, first[2] and text(math.max(0, tonumber(first[2]) - now)) or '-1')
return due
