-- DROP: delete a namespace in which no run is left.
-- KEYS  of the namespace
-- ARGV  prefix, namespace, ''
-- Returns 1 deleted, 0 a run or an owner is left
if live() or redis.call('HLEN', R) > 64 then return 0 end -- the fields of the namespace itself are few
for _, field in ipairs(redis.call('HKEYS', R)) do
  if string.sub(field, -7) == ':status' then return 0 end
end
redis.call('DEL', unpack(KEYS))
return 1
