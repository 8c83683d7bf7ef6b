-- SETTLE: Celery has stored what t ended as: the ticket goes, the index moves. When nothing in the namespace is open, its keys expire.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token of the settler, 5 state that Celery really stored (succeeded, failed, cancelled), 6 retention in ms
-- Returns 1 settled (also when sent again), 0 the run has no outcome, or another attempt is settling it
if not get(t .. ':outcome') then return 0 end
if not get(t .. ':settled') then
  if get(t .. ':settler') ~= ARGV[4] then return 0 end
  set(t .. ':settled', ARGV[5])
  drop_ticket(t)
  unheld(t)
  status(t, ARGV[5])
  redis.call('HINCRBY', R, 'open', '-1')
  local latest = 'latest:' .. (string.match(t, '/([^/]*)/') or t)
  if get(latest) == t then redis.call('HDEL', R, latest) end
end
if num('open') <= 0 then keys_expire(ARGV[6]) end
return 1
