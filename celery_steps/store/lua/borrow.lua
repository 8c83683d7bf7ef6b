-- BORROW: the namespace for one step of a run that lives in another. No run, no ticket: if the borrower dies, the lease ends it.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, '', 4 token, 5 nonce, 6 lease in ms, 7 packed entry, 8 retention in ms
-- Returns {'OK', fence, claim uid, now}, {'HELD', ms until it may be free}, {'LOST'}
local token, ttl, owner = ARGV[4], tonumber(ARGV[6]), get('owner') or ''
if get('tip') and redis.call('EXISTS', J) == 0 then return {'LOST'} end
if owner == token and get('nonce') == ARGV[5] then
  set('lease', text(now + ttl))
  return {'OK', get('owner_fence'), get('owner_uid'), text(now)}
end
if owner ~= token and live() then return {'HELD', text(num('lease') - now)} end
if owner ~= token and (get('turn') or '') ~= '' and ahead('turn_until') then return {'HELD', text(num('turn_until') - now)} end
if owner ~= '' and owner ~= token and get('owner_run') ~= '' then redis.call('HINCRBY', R, get('owner_run') .. ':crashes', '1') end
if owner == token then even_when_full() end -- once more: somebody moved the fence on while it had its effect
local fence, uid = fenced('borrow', ARGV[7], ARGV[5])
set('owner', token, 'owner_fence', fence, 'owner_uid', uid, 'owner_run', '', 'lease', text(now + ttl), 'ttl', text(ttl), 'nonce', ARGV[5])
if num('open') <= 0 then keys_expire(ARGV[8]) end
return {'OK', fence, uid, text(now)}
