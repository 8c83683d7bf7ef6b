-- ABANDON: the journal of an open run is gone. It ends as lost, so that it is never run again in silence.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 settling lease in ms
-- Returns {1, head of held or ''} ended here, {0} it had an outcome already, or was never open
if get(t .. ':outcome') or not get(t .. ':status') then return {0} end
local over = now + tonumber(ARGV[5])
set(t .. ':outcome', 'lost', t .. ':settler', ARGV[4], t .. ':settling', text(over))
unheld(t)
awaited(t)
ticket(t, over)
if get('owner_run') == t then return {1, release()} end
return {1, ''}
