-- TELL: what the owner tells of its run while it executes: a line for the log, its progress, or both.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 id of this telling (each is newer than the one before), 6 how far the body's own words are written,
--       7 packed line or '', 8 packed progress or '', 9 lines to keep, more or less
-- Returns 1 written (also when sent again), 0 not the owner
if get('owner') ~= ARGV[4] then return 0 end
local function newer(id, than)
  local fence, n = string.match(id, '(%d+)%-(%d+)$')
  local other, m = string.match(than, '(%d+)%-(%d+)$')
  if not other then return true end
  if fence ~= other then return tonumber(fence) > tonumber(other) end
  return tonumber(n) > tonumber(m)
end
if not newer(ARGV[5], get(t .. ':logged') or '') then return 1 end
if ARGV[7] ~= '' then redis.call('XADD', KEYS[7], 'MAXLEN', '~', ARGV[9], ARGV[5], text(now), ARGV[7]) end
set(t .. ':logged', ARGV[6] .. ' ' .. ARGV[5])
if ARGV[8] ~= '' then set(t .. ':progress', ARGV[8], t .. ':progressed', text(now)) end
return 1
