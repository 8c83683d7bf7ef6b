-- DELIVER: an event for a namespace, kept until a run of it waits for it; for one wait (a broadcast); or for one run (event = '': a child's end).
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t of the one run or '', 4 event, 5 event id, 6 data, 7 the one wait or '', 8 retention in ms
-- Returns {1, waits that it reached, run, run, ... whose tickets are due now} (the same count when sent again), {0} refused: every run there is
--         finished, or nobody waits there any more
local event, id, wait = ARGV[4], ARGV[5], ARGV[7]
local to = wait ~= '' and t .. ' ' .. wait or ''
local known = redis.call('HGET', S, id)
if known then return {1, known} end
if event == '' then
  if not get(t .. ':status') or get(t .. ':outcome') then return {0} end
elseif wait ~= '' then
  if not redis.call('ZSCORE', waiting(event), member(t) .. ' ' .. wait) then return {0} end
elseif get('open') and num('open') <= 0 then
  return {0}
end
redis.call('XADD', I, '*', event, ARGV[6], to, id)
local reached, due, seen = 0, {1, ''}, {}
local function wake(run)
  reached = reached + 1
  if get(run .. ':status') ~= 'suspended' or seen[run] then return end
  seen[run] = true
  set(run .. ':wake', text(now), run .. ':pushes', '0')
  ticket(run, now)
  due[#due + 1] = run
end
if to ~= '' then
  wake(t)
else
  for _, name in ipairs(redis.call('ZRANGEBYLEX', waiting(event), '[' .. ns .. ' ', '(' .. ns .. '!')) do
    wake(string.match(name, '^%S+ (%S+)'))
  end
end
redis.call('HSET', S, id, text(reached))
if num('open') <= 0 then keys_expire(ARGV[8]) end
due[2] = text(reached)
return due -- not unpacked: Lua's stack has no room for thousands
