-- VERDICT: the main process speaks for a child that is dead.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 beginning of the dead process's tokens, 5 what (lost, failed, cancelled), 6 nonce, 7 packed entry, 8 lease in ms, 9 token of the main process
-- Returns {'CELERY'} not open: as for a plain task, {'NOTHING'} the ticket brings it back, {'OPEN'} the same after its lease was broken,
--         {'TAKEN', fence, claim uid} the main process owns the run and finishes it once Celery has stored the verdict
local process, what, nonce, main = ARGV[4], ARGV[5], ARGV[6], ARGV[9]
local function of(token) return token and string.sub(token, 1, #process) == process end
if get(t .. ':settled') then return {'NOTHING'} end
if get(t .. ':outcome') then
  if of(get(t .. ':settler')) then
    set(t .. ':settling', '0')
    ticket(t, now)
  end
  return {'NOTHING'}
end
if not get(t .. ':status') then return {'CELERY'} end
if get('owner') == main and get('nonce') == nonce then return {'TAKEN', get('owner_fence'), get('owner_uid')} end
local mine = of(get('owner')) and get('owner_run') == t
if what == 'lost' or get(t .. ':rolling') then -- how it ends is stored, and told
  if not mine then return {'NOTHING'} end
  local crashes = num(t .. ':crashes')
  local backoff = crashes == 0 and 0 or math.min(60000, 500 * 2 ^ math.min(crashes, 10))
  set('lease', '0')
  ticket(t, now + backoff)
  local head = redis.call('ZRANGE', H, '0', '0')[1]
  if head then ticket(head, now) end
  return {'OPEN'}
end
if not mine or redis.call('EXISTS', J) == 0 then return {'NOTHING'} end
local fence, uid = fenced(what == 'cancelled' and 'cancel' or 'verdict', ARGV[7], nonce)
local ttl = ARGV[8]
set('owner', main, 'owner_fence', fence, 'owner_uid', uid, 'lease', text(now + tonumber(ttl)), 'ttl', ttl, 'nonce', nonce)
ticket(t, now + tonumber(ttl))
return {'TAKEN', fence, uid}
