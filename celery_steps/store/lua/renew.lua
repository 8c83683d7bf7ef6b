-- RENEW: the owner, or who is settling, is alive.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, t ('' for a borrowed namespace), 4 token, 5 lease in ms
-- Returns the namespace's newest fence (a higher one than the owner's: a control entry waits), or 0: refused
local till = now + tonumber(ARGV[5])
if get('owner') == ARGV[4] then
  set('lease', text(till))
  if t ~= '' then ticket(t, till) end
  return get('fence')
end
if t ~= '' and get(t .. ':settler') == ARGV[4] and not get(t .. ':settled') then
  set(t .. ':settling', text(till))
  ticket(t, till)
  return get('fence')
end
return '0'
