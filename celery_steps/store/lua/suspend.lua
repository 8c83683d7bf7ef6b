-- SUSPEND: record what the run waits for, give it a wake time and free the namespace.
-- KEYS  journal, run hash, messages, held
-- ARGV  prefix, namespace, t, 4 token, 5 tip before, 6 tip after, 7 entry id, 8 packed entry, 9 ms from now until it wakes
-- Returns {1, head of held or ''} done (also when sent again), {0} not the owner or the tip moved, {-1} the journal is gone
local tip = get('tip')
if tip == ARGV[6] then return {1, ''} end
if tip ~= ARGV[5] or get('owner') ~= ARGV[4] then return {0} end
if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[7], 'suspend', ARGV[8]) then return {-1} end
local wake = now + tonumber(ARGV[9])
set('tip', ARGV[6], t .. ':wake', text(wake), t .. ':pushes', '0')
status(t, 'suspended')
ticket(t, wake)
return {1, release()}
