-- SUSPEND: record what the run waits for, give it a wake time and free the namespace.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 tip before, 6 tip after, 7 ms from now until it wakes, 8 status (suspended, paused, in_doubt),
--       9 the last of the inbox that the owner has read ('' = it waits for nothing from there),
--       10 number of awaited events, then event, wait, match of each; then id, kind, packed entry of each entry
-- Returns {1, head of held or ''} done (also when sent again), {0} not the owner or the tip moved, {-1} the journal is gone,
--         {3} the inbox holds something that the owner has not read: nothing is changed
local tip = get('tip')
if tip == ARGV[6] then return {1, ''} end
if tip ~= ARGV[5] or get('owner') ~= ARGV[4] then return {0} end
if ARGV[9] ~= '' and #redis.call('XRANGE', I, '(' .. ARGV[9], '+', 'COUNT', '1') > 0 then return {3} end
local first = 11 + 3 * tonumber(ARGV[10])
for i = first, #ARGV, 3 do
  if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[i], ARGV[i + 1], ARGV[i + 2]) then return {-1} end
end
for i = 11, first - 1, 3 do await(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
local wake = now + tonumber(ARGV[7])
set('tip', ARGV[6], t .. ':wake', text(wake), t .. ':pushes', '0')
status(t, ARGV[8])
ticket(t, wake)
return {1, release()}
