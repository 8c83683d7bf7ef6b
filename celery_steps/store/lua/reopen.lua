-- REOPEN: a run that failed or was cancelled begins again: one entry takes away its end, and what is to be done anew.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 nonce, 5 packed entry, 6 message with which it begins, 7 how often it is reopened with this one,
--       8 '1' = it goes on undoing
-- Returns {'OK'} (also when sent again), {'REFUSED', status}, {'UNKNOWN'}, {'LOST'} its journal or its message is gone
local known = get(t .. ':status')
if not known then return {'UNKNOWN'} end
if get(t .. ':control') == ARGV[4] then return {'OK'} end
if not get(t .. ':settled') or known == 'succeeded' then return {'REFUSED', known} end
if num(t .. ':reopened') + 1 ~= tonumber(ARGV[7]) then return {'REFUSED', 'being retried'} end
if redis.call('EXISTS', J) == 0 or redis.call('HEXISTS', M, t) == 0 then return {'LOST'} end
fenced('reopen', ARGV[5], ARGV[4])
for _, field in ipairs({'outcome', 'settler', 'settling', 'settled', 'paused'}) do redis.call('HDEL', R, t .. ':' .. field) end
if ARGV[8] ~= '1' then redis.call('HDEL', R, t .. ':rolling') end
set(t .. ':control', ARGV[4], t .. ':reopened', ARGV[7], t .. ':retries', '0', t .. ':crashes', '0', t .. ':wake', text(now), t .. ':pushes', '0')
redis.call('HSET', M, t, ARGV[6])
if redis.call('HINCRBY', R, 'open', '1') == 1 then
  for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
end
status(t, ARGV[8] == '1' and 'rolling_back' or 'suspended')
ticket(t, now)
return {'OK'}
