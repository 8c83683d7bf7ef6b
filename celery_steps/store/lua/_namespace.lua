-- Put in front of every script that moves a run: what they all read and do.
-- KEYS  1 journal  2 run hash  3 messages  4 held  5 inbox  6 heard  7 log          (one namespace, one slot)
-- ARGV  1 key prefix of the partition  2 namespace, encoded  3 run
local J, R, M, H, I, S = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local prefix, ns, t = ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function text(number) return string.format('%.0f', number) end
local function get(field) return redis.call('HGET', R, field) end
local function num(field) return tonumber(get(field) or '') or 0 end
local function set(...) redis.call('HSET', R, ...) end
local function member(run) return ns .. ' ' .. run end

-- A lease further off than its length was written before the clock stepped back: it is over.
local function ahead(field) local at = num(field) return now < at and at <= now + num('ttl') end
local function live() return (get('owner') or '') ~= '' and ahead('lease') end

local function ticket(run, due)
  redis.call('ZADD', prefix .. 'due:' .. (get(run .. ':app') or ''), text(due), member(run))
end
local function drop_ticket(run)
  redis.call('ZREM', prefix .. 'due:' .. (get(run .. ':app') or ''), member(run))
end
local function status(run, to)
  local from = get(run .. ':status')
  if from and from ~= to then redis.call('ZREM', prefix .. 'status:' .. from, member(run)) end
  redis.call('ZADD', prefix .. 'status:' .. to, text(now), member(run))
  set(run .. ':status', to, run .. ':changed', text(now))
end

-- Neither held nor executed: its ticket or a control request brings it back.
local WAITS = {suspended = true, retrying = true, paused = true, in_doubt = true, rolling_back = true}
local NEVER = 9e15

-- For what follows an effect: out of memory, Redis refuses no more to a script whose first write took none. Any server does so.
local function even_when_full() redis.call('HDEL', R, '') end

-- Strictly rising, even after a wipe or a clock step.
local function next_fence()
  local last = redis.call('XREVRANGE', J, '+', '-', 'COUNT', '1')
  local ms = last[1] and tonumber(string.match(last[1][1], '^%d+')) or -1
  return math.max(now, num('fence') + 1, ms + 1)
end
-- Opens a new fence with one entry; the stream comes first because it may refuse, and Lua does not roll back.
local function fenced(kind, data, nonce)
  -- The time as well: a late copy of the same request is another claim.
  local fence, uid = text(next_fence()), string.sub(nonce, 1, 16) .. '.' .. time[1] .. time[2]
  redis.call('XADD', J, fence .. '-0', kind, data)
  set('fence', fence, 'tip', fence .. '-0 ' .. uid)
  return fence, uid
end

-- Whoever clears the owner calls this. The head of held gets the turn for one lease; returns it, to be published.
local function release()
  set('owner', '')
  local head = redis.call('ZRANGE', H, '0', '0')[1]
  if not head then return '' end
  ticket(head, now)
  set(head .. ':wake', text(now), 'turn', head, 'turn_until', text(now + num('ttl')), head .. ':pushes', '0')
  return head
end
-- A run that leaves held as its head leaves the next one a due time.
local function unheld(run)
  if redis.call('ZREM', H, run) == 0 then return end
  local head = redis.call('ZRANGE', H, '0', '0')[1]
  if head then ticket(head, live() and num('lease') or now) end
end
-- A wait for an event: in the index of its name from the first wait entry to the one that ends it, so that no event is missed in between.
local function waiting(event) return prefix .. 'waiting:' .. event end
local function await(event, wait, match)
  local token, known = event .. '|' .. wait, get(t .. ':await') or ''
  if string.find(' ' .. known .. ' ', ' ' .. token .. ' ', 1, true) then return end
  redis.call('ZADD', waiting(event), '0', member(t) .. ' ' .. wait)
  set(t .. ':await', known == '' and token or known .. ' ' .. token, t .. ':match:' .. wait, match)
end
local function awaited(run, over) -- no longer; over = the set of waits that are, nil for all of the run
  local left = {}
  for event, wait in string.gmatch(get(run .. ':await') or '', '(%S+)|(%S+)') do
    if not over or over[wait] then
      redis.call('ZREM', waiting(event), member(run) .. ' ' .. wait)
      redis.call('HDEL', R, run .. ':match:' .. wait)
    else
      left[#left + 1] = event .. '|' .. wait
    end
  end
  if #left == 0 then redis.call('HDEL', R, run .. ':await') else set(run .. ':await', table.concat(left, ' ')) end
end
local function keys_expire(ms)
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ms) end
end
