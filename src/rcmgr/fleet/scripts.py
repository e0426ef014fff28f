"""The scripts that run in the engine. Each is one atomic step, on the engine's clock.

All keys of a fleet have one hash tag, and so one slot of a cluster. Numbers are integers below
2**53, which the doubles of Lua hold exactly.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BEAT", "CHANGE_BANS", "EXCHANGE"]

BEAT: Final = """
-- KEYS: nodes, use, bans, reasons. ARGV: node, its life in us, its use
-- Returns: nodes alive, 1 if the engine did not know the node, generation and version of the bans
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local node, life = ARGV[1], tonumber(ARGV[2])
local seen = tonumber(redis.call('ZSCORE', KEYS[1], node) or '0')
redis.call('ZADD', KEYS[1], string.format('%.0f', now), node)
redis.call('HSET', KEYS[2], node, ARGV[3])
for i = 1, 4 do
  redis.call('PEXPIRE', KEYS[i], i < 3 and string.format('%.0f', life * 0.024) or 2592000000)
end
local past, future = string.format('%.0f', now - 12 * life), string.format('%.0f', now + 12 * life)
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', past, 'LIMIT', 0, 4)
for i, each in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], future, '+inf', 'LIMIT', 0, 4)) do
  gone[#gone + 1] = each
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('HDEL', KEYS[2], unpack(gone))
end
return {
  redis.call('ZCOUNT', KEYS[1],
    string.format('%.0f', now - life), string.format('%.0f', now + life)),
  (math.abs(now - seen) > life) and 1 or 0,
  -tonumber(redis.call('ZSCORE', KEYS[3], '!g') or '0'),
  -tonumber(redis.call('ZSCORE', KEYS[3], '!v') or '0'),
}
"""

EXCHANGE: Final = """
-- KEYS: nodes, then the sorted set of each rate, then the hash of each place
-- ARGV: node, its life in us,
--   rates, and for each: ticks per us, ticks per token, tokens of its burst in ticks, most members
--   leases, and for each: number of its rate, member, charge, want
--   places, and for each: places held
-- Returns: for each lease: tokens, us until its bucket is full; for each place: places elsewhere
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local node, life = ARGV[1], tonumber(ARGV[2])
local at = 3
local reply = {}
local function number()
  at = at + 1
  return tonumber(ARGV[at - 1])
end

local rates = {}
local count = number()
for i = 1, count do
  local ticks = number()
  local cost = number()
  local burst = number()
  local most = number()
  -- one exchange may lease what comes in during the next 0.1 s
  rates[i] = {KEYS[1 + i], ticks, cost, burst + 100000 * ticks, most}
end
for i = 1, number() do
  local rate = rates[number()]
  local member = ARGV[at]
  at = at + 1
  local charge = number()
  local want = number()
  local key, ticks, cost, limit = rate[1], rate[2], rate[3], rate[4]
  local full = tonumber(redis.call('ZSCORE', key, member) or '0')
  local debt = math.max(0, full - now) * ticks
  if debt > 2 * limit then debt = limit end -- the clock has jumped back
  debt = math.min(2 * limit, math.max(0, debt + charge * cost))
  local granted = 0
  if want > 0 and debt + cost <= limit then
    -- half of the tokens stay for the next node
    granted = math.min(want, math.max(1, math.floor(math.floor((limit - debt) / cost) / 2)))
    debt = debt + granted * cost
  end
  local left = math.ceil(debt / ticks)
  if left > 0 then
    redis.call('ZADD', key, string.format('%.0f', now + left), member)
  elseif full > 0 then
    redis.call('ZREM', key, member)
  end
  reply[#reply + 1] = granted
  reply[#reply + 1] = left
end
for i, rate in ipairs(rates) do
  -- a full bucket is no different from one that was never used
  local full = redis.call(
    'ZRANGEBYSCORE', rate[1], '-inf', string.format('%.0f', now), 'LIMIT', 0, 16)
  if #full > 0 then redis.call('ZREM', rate[1], unpack(full)) end
  local above = redis.call('ZCARD', rate[1]) - rate[5]
  if above > 0 then redis.call('ZPOPMIN', rate[1], math.min(above, 16)) end
  redis.call('PEXPIRE', rate[1], string.format('%.0f', rate[4] / rate[2] / 500 + 60000))
end

local is_alive = {}
for i = 1, number() do
  local key, others = KEYS[1 + count + i], 0
  local held = number()
  if held > 0 then
    redis.call('HSET', key, node, held)
    redis.call('PEXPIRE', key, 3600000)
  else
    redis.call('HDEL', key, node)
  end
  local all = redis.call('HGETALL', key)
  for j = 1, #all, 2 do
    local other = all[j]
    if other ~= node then
      if is_alive[other] == nil then
        local last = tonumber(redis.call('ZSCORE', KEYS[1], other) or '0')
        is_alive[other] = math.abs(now - last) <= life
      end
      if is_alive[other] then
        others = others + tonumber(all[j + 1])
      else
        redis.call('HDEL', key, other)
      end
    end
  end
  reply[#reply + 1] = others
end
return reply
"""

CHANGE_BANS: Final = """
-- KEYS: bans, reasons
-- ARGV: channel, then for each change:
--   what, us until it ends ('': no end, '0': end it now), reason, message
-- Every change has a version; a message begins with the generation and the version
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local generation = redis.call('ZSCORE', KEYS[1], '!g')
if not generation then
  generation = string.format('%.0f', -now)
  redis.call('ZADD', KEYS[1], generation, '!g')
end
for i = 2, #ARGV, 4 do
  local what, us = ARGV[i], ARGV[i + 1]
  if us == '0' then
    redis.call('ZREM', KEYS[1], what)
    redis.call('HDEL', KEYS[2], what)
  else
    local ends = '+inf'
    if us ~= '' then ends = string.format('%.0f', now + tonumber(us)) end
    redis.call('ZADD', KEYS[1], ends, what)
    redis.call('HSET', KEYS[2], what, ARGV[i + 2])
  end
  local version = redis.call('ZINCRBY', KEYS[1], -1, '!v')
  redis.call('PUBLISH', ARGV[1], string.format(
    '%.0f %.0f %s', -tonumber(generation), -tonumber(version), ARGV[i + 3]))
end
local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '(0', string.format('%.0f', now), 'LIMIT', 0, 64)
local above = redis.call('ZCARD', KEYS[1]) - 2 - #gone - 10000
if above > 0 then
  -- those that end first
  gone = redis.call('ZRANGEBYSCORE', KEYS[1], '(0', '+inf', 'LIMIT', 0, #gone + above)
end
if #gone > 0 then
  redis.call('ZREM', KEYS[1], unpack(gone))
  redis.call('HDEL', KEYS[2], unpack(gone))
end
redis.call('PEXPIRE', KEYS[1], 2592000000)
redis.call('PEXPIRE', KEYS[2], 2592000000)
return 1
"""
