-- CONTROL: ask something of a run from outside, whoever owns it: an entry with a new fence. The owner stays, and meets it at its next commit.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 what (cancel, pause, unpause, resolve, handover, rollback), 5 nonce, 6 packed entry,
--       7 what the owner's token must begin with: of a handover its process, of a rollback all of it; else ''
-- Returns {'OK', due} (due = '1': its ticket is due now), {'REFUSED', status} not in this status, {'UNKNOWN'}, {'LOST'}
local what, known = ARGV[4], get(t .. ':status')
if get(t .. ':outcome') then return {'REFUSED', known} end
if not known then return {'UNKNOWN'} end
if redis.call('EXISTS', J) == 0 then return get('tip') and {'LOST'} or {'UNKNOWN'} end
local REFUSED = {
  cancel = {rolling_back = true},
  pause = {rolling_back = true},
  unpause = {suspended = true, retrying = true, in_doubt = true, rolling_back = true},
  resolve = {running = true, held = true, suspended = true, retrying = true, paused = true, rolling_back = true},
}
local owns = get('owner_run') == t and string.sub(get('owner') or '', 1, #ARGV[7]) == ARGV[7]
if ARGV[7] ~= '' and not owns then return {'REFUSED', known} end
local again = get(t .. ':control') == ARGV[5]
local stays = what == 'unpause' and known ~= 'paused' and get(t .. ':paused')
if not again and not stays and REFUSED[what] and REFUSED[what][known] then return {'REFUSED', known} end
local due = WAITS[known] and what ~= 'pause' and what ~= 'handover' and what ~= 'rollback' and not stays
if not again then
  fenced(what, ARGV[6], ARGV[5])
  set(t .. ':control', ARGV[5])
  if what == 'pause' then set(t .. ':paused', '1') elseif what == 'unpause' then redis.call('HDEL', R, t .. ':paused') end
  if what == 'rollback' then
    set(t .. ':rolling', '1')
    status(t, 'rolling_back')
  elseif due then
    if known == 'paused' then status(t, 'suspended') end
    set(t .. ':wake', text(now), t .. ':pushes', '0')
    ticket(t, now)
  elseif what == 'pause' and known == 'suspended' or what == 'pause' and known == 'retrying' then
    status(t, 'paused')
    set(t .. ':wake', text(NEVER))
    ticket(t, NEVER)
  end
end
return {'OK', due and '1' or '0'}
