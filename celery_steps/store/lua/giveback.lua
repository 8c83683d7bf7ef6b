-- GIVEBACK: record the borrowed step (if it has an outcome) and free its namespace, in one go.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, '', 4 token, 5 tip before, 6 tip after, 7 retention in ms, then id, kind, packed entry of each
-- Returns {1, head of held or ''} done (also when sent again), {0} not the borrower or the tip moved, {-1} the journal is gone
local tip = get('tip')
if #ARGV > 7 then
  if tip == ARGV[6] then return {1, ''} end
  if tip ~= ARGV[5] or get('owner') ~= ARGV[4] then return {0} end
  even_when_full()
  for i = 8, #ARGV, 3 do
    if not redis.call('XADD', J, 'NOMKSTREAM', ARGV[i], ARGV[i + 1], ARGV[i + 2]) then return {-1} end
  end
  set('tip', ARGV[6])
elseif get('owner') ~= ARGV[4] then
  return {1, ''}
end
if num('open') <= 0 then keys_expire(ARGV[7]) end
return {1, release()}
