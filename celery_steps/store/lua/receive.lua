-- RECEIVE: COMMIT of what waits came to: takes the events out of the inbox, and the waits out of the index.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 tip before, 5 tip after, 6 number of ended waits, 7 number of events, event and wait of each ended one,
--       the events' ids, then id, kind, packed entry of each entry
-- Returns 1 written (also when sent again), 0 the tip moved, -1 the journal is gone
local tip = get('tip')
if tip == ARGV[5] then return 1 end
if tip ~= ARGV[4] then return 0 end
local events = 8 + 2 * tonumber(ARGV[6])
local first = events + tonumber(ARGV[7])
for i = first, #ARGV, 3 do
  if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[i], ARGV[i + 1], ARGV[i + 2]) then return -1 end
end
set('tip', ARGV[5], t .. ':crashes', '0')
-- What a wait came to stands for every run of the namespace.
local over, names, runs = {}, {}, {}
for i = 8, events - 1, 2 do names[ARGV[i]], over[ARGV[i + 1]] = true, true end
for event in pairs(names) do
  for _, name in ipairs(redis.call('ZRANGEBYLEX', waiting(event), '[' .. ns .. ' ', '(' .. ns .. '!')) do
    local run, wait = string.match(name, '^%S+ (%S+) (%S+)')
    if over[wait] then runs[run] = true end
  end
end
for run in pairs(runs) do awaited(run, over) end
for i = events, first - 1 do redis.call('XDEL', I, ARGV[i]) end
return 1
