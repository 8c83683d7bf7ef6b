-- RELEASE: the owner gives the namespace back unfinished (Reject(requeue=True), a shutdown). No crash is counted.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t, 4 token or its beginning, 5 ms until the ticket is due
-- Returns {1, head of held or ''} released, {0} not the owner
local mine = ARGV[4]
local function holds(token) return token and mine ~= '' and string.sub(token, 1, #mine) == mine end
if holds(get(t .. ':settler')) and not get(t .. ':settled') then
  set(t .. ':settling', '0')
  ticket(t, now + tonumber(ARGV[5]))
  return {1, ''}
end
if not holds(get('owner')) or get('owner_run') ~= t then return {0} end
ticket(t, now + tonumber(ARGV[5]))
return {1, release()}
