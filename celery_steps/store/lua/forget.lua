-- FORGET: finished runs past retention leave the index and their namespace's hashes. A few at a time.
-- KEYS  1 index of one final status
-- ARGV  1 prefix, 2 retention in ms, 3 how many at most, 4 one member to forget now ('' = whatever is past retention)
-- Returns how many
local time = redis.call('TIME')
local cutoff = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[2])
local past
if ARGV[4] == '' then
  past = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', cutoff), 'LIMIT', '0', ARGV[3])
else
  past = redis.call('ZSCORE', KEYS[1], ARGV[4]) and {ARGV[4]} or {}
end
local fields = {'app', 'task', 'created', 'changed', 'status', 'wake', 'crashes', 'attempts', 'retries', 'outcome', 'settler', 'settling', 'settled', 'pushes', 'control', 'await', 'logged', 'progress', 'progressed', 'rolling', 'reopened', 'paused'}
for _, member in ipairs(past) do
  local ns, t = string.match(member, '^(%S+) (%S+)$')
  for _, field in ipairs(fields) do redis.call('HDEL', ARGV[1] .. 'run:' .. ns, t .. ':' .. field) end
  redis.call('HDEL', ARGV[1] .. 'msg:' .. ns, t)
  redis.call('ZREM', KEYS[1], member)
end
return #past
