-- COMMIT: append entries, only if the journal still ends where this owner left it.
-- KEYS  journal, run hash
-- ARGV  1 tip before, 2 tip after, 3 crash field of the run to reset ('' = none), then id, kind, packed entry of each
-- Returns 1 written (also when sent again), 4 written though Redis is out of memory, 0 the tip moved, -1 the journal is gone
local tip = redis.call('HGET', KEYS[2], 'tip')
if tip == ARGV[2] then return 1 end
if tip ~= ARGV[1] then return 0 end
local written = 1
local function add(...) return redis.call('XADD', KEYS[1], 'NOMKSTREAM', ...) end
for i = 4, #ARGV, 3 do
  local allowed, id = pcall(add, ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if not allowed then -- An effect may be behind this: Redis refuses no more to a script whose first write took no memory.
    redis.call('HDEL', KEYS[2], '')
    id, written = add(ARGV[i], ARGV[i + 1], ARGV[i + 2]), 4
  end
  if not id then return -1 end
end
if ARGV[3] == '' then
  redis.call('HSET', KEYS[2], 'tip', ARGV[2])
else
  redis.call('HSET', KEYS[2], 'tip', ARGV[2], ARGV[3], '0')
end
return written
