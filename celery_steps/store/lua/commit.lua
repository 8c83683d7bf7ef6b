-- COMMIT: append entries, only if the journal still ends where this owner left it.
-- KEYS  journal, run hash
-- ARGV  1 tip before, 2 tip after, 3 crash field of the run to reset ('' = none), then id, kind, packed entry of each
-- Returns 1 written (also when sent again), 0 the tip moved, -1 the journal is gone
local tip = redis.call('HGET', KEYS[2], 'tip')
if tip == ARGV[2] then return 1 end
if tip ~= ARGV[1] then return 0 end
for i = 4, #ARGV, 3 do
  if not redis.call('XADD', KEYS[1], 'NOMKSTREAM', ARGV[i], ARGV[i + 1], ARGV[i + 2]) then return -1 end
end
if ARGV[3] == '' then
  redis.call('HSET', KEYS[2], 'tip', ARGV[2])
else
  redis.call('HSET', KEYS[2], 'tip', ARGV[2], ARGV[3], '0')
end
return 1
