-- CONTROL: ask something of a run from outside, whoever owns it: an entry with a new fence. The owner stays, and meets it at its next commit.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 what (cancel), 5 nonce, 6 packed entry
-- Returns {'OK', due} (due = '1': its ticket is due now), {'REFUSED', status} it is finished, {'UNKNOWN'}, {'LOST'}
local known = get(t .. ':status')
if get(t .. ':outcome') then return {'REFUSED', known} end
if not known then return {'UNKNOWN'} end
if redis.call('EXISTS', J) == 0 then return get('tip') and {'LOST'} or {'UNKNOWN'} end
local due = known == 'suspended' or known == 'retrying'
if get(t .. ':control') ~= ARGV[5] then
  fenced(ARGV[4], ARGV[6], ARGV[5])
  set(t .. ':control', ARGV[5])
  if due then
    set(t .. ':wake', text(now))
    ticket(t, now)
  end
end
return {'OK', due and '1' or '0'}
