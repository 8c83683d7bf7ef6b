-- RETRY: Celery has stored RETRY; the next attempt starts from this ticket. Retries and message move up together, never down.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 tip before, 6 tip after, 7 entry id, 8 packed entry, 9 ms until it wakes, 10 retries, 11 message
-- Returns {1, head of held or ''} done (also when sent again), {0} not the owner or the tip moved, {-1} the journal is gone
local tip = get('tip')
if tip == ARGV[6] then return {1, ''} end
if tip ~= ARGV[5] or get('owner') ~= ARGV[4] then return {0} end
if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[7], 'retry', ARGV[8]) then return {-1} end
local wake = now + tonumber(ARGV[9])
set('tip', ARGV[6], t .. ':wake', text(wake), t .. ':pushes', '0', t .. ':crashes', '0')
if tonumber(ARGV[10]) > num(t .. ':retries') then
  set(t .. ':retries', ARGV[10])
  redis.call('HSET', M, t, ARGV[11])
end
status(t, 'retrying')
ticket(t, wake)
return {1, release()}
