-- FINISH: record the outcome of t and free the namespace. The ticket stays until SETTLE: Celery has yet to store the result.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 tip before, 6 tip after, 7 entry id, 8 packed entry, 9 settling lease in ms
-- Returns {1, head of held or ''} done by this owner (also when sent again), {2} another finished it, {0} not the owner or the tip moved, {-1} the journal is gone
local token = ARGV[4]
if get(t .. ':outcome') then
  return get(t .. ':settler') == token and {1, ''} or {2}
end
if get('tip') ~= ARGV[5] or get('owner') ~= token then return {0} end
if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[7], 'finish', ARGV[8], 'run', t) then return {-1} end
local over = now + tonumber(ARGV[9])
set('tip', ARGV[6], t .. ':outcome', ARGV[7], t .. ':settler', token, t .. ':settling', text(over))
redis.call('ZREM', H, t)
awaited(t)
ticket(t, over)
return {1, release()}
