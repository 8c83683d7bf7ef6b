-- CLAIM: the namespace for one attempt of run t, or why not.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token, 5 nonce (one per call, the same in a resend), 6 lease in ms, 7 retries, 8 message,
--       9 fence this owner has ('' = first claim), 10 '1' = only if t is known, 11 packed attempt entry, 12 app, 13 task,
--       14 how often the run was reopened, as its message says
-- Returns {'OK', fence, claim uid, now, crashes, attempts, how far the body's own words are written}
--         {'SETTLED', state, entry id} {'SETTLING', ms left} {'FINISHED', entry id} {'LOST'} {'STALE_MESSAGE'} {'LEASELOST'} {'UNKNOWN'} {'EARLY', ms left} {'HELD'}
local token, nonce, ttl, retries, message, expect = ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8], ARGV[9]
local known, tip, owner = get(t .. ':status'), get('tip'), get('owner') or ''

local task_id = string.match(t, '/([^/]*)/') or t
local function nesting_of(run) return tonumber(string.match(run, '%d*$')) or 0 end

local function granted(fence, uid)
  return {'OK', fence, uid, text(now), text(num(t .. ':crashes')), text(num(t .. ':attempts')), get(t .. ':logged') or ''}
end
local function remember()
  if not known then
    if redis.call('HINCRBY', R, 'open', '1') == 1 then
      for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
    end
    set(t .. ':app', ARGV[12], t .. ':task', ARGV[13], t .. ':created', text(now), t .. ':retries', text(retries))
  end
  redis.call('HSETNX', M, t, message)
end

local outcome = get(t .. ':outcome')
if not outcome and not tip then -- the hash is gone: its journal may still know the end
  for _, entry in ipairs(redis.call('XREVRANGE', J, '+', '-')) do
    if entry[2][1] == 'finish' and entry[2][4] == t then outcome = entry[1] break end
  end
end
if outcome then
  local state, settler = get(t .. ':settled'), get(t .. ':settler')
  if state then return {'SETTLED', state, outcome} end
  if not get('ttl') then set('ttl', text(ttl)) end
  if settler and settler ~= token and ahead(t .. ':settling') then
    return {'SETTLING', text(num(t .. ':settling') - now)}
  end
  remember()
  set(t .. ':outcome', outcome, t .. ':settler', token, t .. ':settling', text(now + ttl))
  if not known then status(t, 'running') end
  ticket(t, now + ttl)
  return {'FINISHED', outcome}
end

if tip and redis.call('EXISTS', J) == 0 then return {'LOST'} end
local reopened = tonumber(ARGV[14])
local behind = reopened < num(t .. ':reopened') or reopened == num(t .. ':reopened') and retries < num(t .. ':retries')
if known and behind then return {'STALE_MESSAGE'} end
if owner == token and get('nonce') == nonce then
  set('lease', text(now + ttl))
  return granted(get('owner_fence'), get('owner_uid'))
end
if expect ~= '' and not (owner == token and get('owner_fence') == expect) then return {'LEASELOST'} end
if ARGV[10] == '1' and not known then return {'UNKNOWN'} end

local wake = num(t .. ':wake')
if known and WAITS[known] and now < wake then return {'EARLY', text(wake - now)} end

-- The run that t replaces was killed between sending t and its own end: that one goes first, as its end empties the journal.
local replaced = get('latest:' .. task_id)
local early = replaced and not get(replaced .. ':outcome') and nesting_of(replaced) < nesting_of(t)

local turn = get('turn') or ''
if early and turn == t then
  turn = ''
  set('turn', '')
end
local waiting = turn ~= '' and turn ~= t and ahead('turn_until')
if expect == '' and (live() or waiting or early) then
  if live() and get('owner_run') == t then return {'HELD'} end
  local free = live() and num('lease') or waiting and num('turn_until') or now
  remember()
  if known ~= 'held' then status(t, 'held') end
  if early then redis.call('ZREM', H, t) end -- to the end of the line
  redis.call('ZADD', H, 'NX', text(redis.call('HINCRBY', R, 'arrivals', '1')), t)
  local head = redis.call('ZRANGE', H, '0', '0')[1]
  if head == t and early then free = now + ttl end
  if head ~= t then drop_ticket(t) end
  set(head .. ':pushes', '0')
  ticket(head, free)
  return {'HELD'}
end

if owner ~= '' and owner ~= token then -- it vanished: its lease ran out or was broken
  local gone = get('owner_run')
  if gone ~= '' then redis.call('HINCRBY', R, gone .. ':crashes', '1') end
end
if expect ~= '' then even_when_full() end -- what it did before somebody moved the fence on is to be recorded
local fence, uid = fenced(expect == '' and 'attempt' or 'reclaim', ARGV[11], nonce)
remember()
set('owner', token, 'owner_fence', fence, 'owner_uid', uid, 'owner_run', t, 'lease', text(now + ttl), 'ttl', text(ttl), 'nonce', nonce)
if expect == '' then redis.call('HINCRBY', R, t .. ':attempts', '1') end
redis.call('ZREM', H, t)
if turn == t then set('turn', '') end
if nesting_of(t) >= nesting_of(replaced or '') then set('latest:' .. task_id, t) end
local head = redis.call('ZRANGE', H, '0', '0')[1]
if head then ticket(head, now + ttl) end
if retries > num(t .. ':retries') then
  set(t .. ':retries', text(retries))
  redis.call('HSET', M, t, message)
end
status(t, get(t .. ':rolling') and 'rolling_back' or 'running')
set(t .. ':pushes', '0')
ticket(t, now + ttl)
return granted(fence, uid)
