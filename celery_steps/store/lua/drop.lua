-- DROP: delete a namespace in which no run is left.
-- KEYS  journal, run hash, messages, held
-- ARGV  prefix, namespace, ''
-- Returns 1 deleted, 0 a run or an owner is left
if live() or redis.call('HLEN', R) > 64 then return 0 end -- the fields of the namespace itself are few
for _, field in ipairs(redis.call('HKEYS', R)) do
  if string.sub(field, -7) == ':status' then return 0 end
end
redis.call('DEL', J, R, M, H)
return 1
