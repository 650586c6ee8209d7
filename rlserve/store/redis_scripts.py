"""The Lua scripts of the store in Redis. Each is one transaction: no other client, and no crash, sees half of it.

The keys, all with the prefix of the run:

========== ========== ===========================================================================================
meta       hash       format, store_id, sequence (of marks), arrival (of the newest group), writer, writes (how many),
                      opens, deleted (newest step of which payloads are deleted)
groups     hash       group id to its row: state, step, arrival, reason and info, joined by SEPARATOR
payloads   hash       group id to bytes
queue      sorted set ids of queued groups, by arrival
left       sorted set ids of groups that left the queue and may be queued again, by step
counts     hash       received, consumed, and ``dropped:REASON``: numbers of groups
rejections hash       numbers by reason
facts      hash       what the run remembers
none       -          never there
========== ========== ===========================================================================================

Every script that writes begins with PRELUDE, which knows its writer. Sorted sets and not a stream with a consumer
group: there is one consumer, and it must be able to take a step back, to where a checkpoint was written.
"""

KEYS = ("meta", "groups", "payloads", "queue", "left", "counts", "rejections", "facts", "none")
SEPARATOR = "\x1f"
FORMAT = 1
"""Raise it with every change of the keys above: a store of another format is refused."""
CONSUMED, DROPPED, QUEUED = "c", "d", "q"

_NAMES = f"local {', '.join(KEYS)} = unpack(KEYS)\n"
_ROW = r"""
local function parsed(row) return string.match(row, '^(.)\31(.-)\31(.-)\31(.-)\31(.*)$') end
local function joined(state, step, arrival, reason, info)
  return table.concat({state, step, arrival, reason, info}, '\31')
end
local function counter(state, reason) return state == 'c' and 'consumed' or 'dropped:' .. reason end
"""
# At its memory limit Redis refuses the first command of a script that may need memory, unless one that never does came
# before it. Leaving the queue must be possible then: it is what frees memory.
_ALWAYS = "redis.call('DEL', none)\n"
_PRELUDE = r"""
local found, acknowledged = redis.call('HGET', meta, 'writer'), tonumber(ARGV[2])
if found ~= ARGV[1] then return redis.error_reply('RLSERVE WRITER ' .. (found or '')) end
local writes = tonumber(redis.call('HGET', meta, 'writes'))
if writes < acknowledged then return redis.error_reply('RLSERVE LOST ' .. acknowledged - writes) end
local function done(reply) return {redis.call('HINCRBY', meta, 'writes', 1), reply} end
"""

OPEN = (
    _NAMES
    + _ALWAYS
    + r"""
local format, token, store_id = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', meta) == 0 then
  if redis.call('EXISTS', groups, payloads, queue) > 0 then return redis.error_reply('RLSERVE DAMAGED') end
  redis.call('HSET', meta, 'format', format, 'store_id', store_id, 'sequence', 0, 'arrival', 0, 'writes', 0)
end
local present = redis.call('HGET', meta, 'format')
if present ~= format then return redis.error_reply('RLSERVE FORMAT ' .. (present or '')) end
local writer = redis.call('HINCRBY', meta, 'opens', 1) .. ':' .. token
redis.call('HSET', meta, 'writer', writer)
return {writer, tonumber(redis.call('HGET', meta, 'writes')), redis.call('HGET', meta, 'store_id')}
"""
)
"""format, token, store id for a new one -> writer, writes, store id. Whoever opened before can write no more."""

RECEIVE = (
    _NAMES
    + "if ARGV[3] == '0' then redis.call('DEL', none) end\n"
    + _ROW
    + _PRELUDE
    + r"""
local at = 4
local function take() at = at + 1 return ARGV[at - 1] end
for _ = 1, tonumber(take()) do
  local reason = take()
  redis.call('HINCRBY', rejections, reason, take())
end
local new = {}
while at <= #ARGV do
  local id, reason, info, payload = take(), take(), take(), take()
  if redis.call('HEXISTS', groups, id) == 1 then
    new[#new + 1] = 0
  else
    local arrival = redis.call('HINCRBY', meta, 'arrival', 1)
    if reason == '' then
      redis.call('HSET', groups, id, joined('q', '', arrival, '', info))
      redis.call('HSET', payloads, id, payload)
      redis.call('ZADD', queue, arrival, id)
    else
      redis.call('HSET', groups, id, joined('d', '', arrival, reason, info))
      redis.call('HINCRBY', counts, counter('d', reason), 1)
    end
    redis.call('HINCRBY', counts, 'received', 1)
    new[#new + 1] = 1
  end
end
return done(new)
"""
)
"""writer, writes, 1 if any has a payload, number of rejections, their pairs; then id, reason, info and payload of each
group -> for each whether it was new."""

LEAVE = (
    _NAMES
    + _ALWAYS
    + _ROW
    + _PRELUDE
    + r"""
local state, reason, step = ARGV[3], ARGV[4], ARGV[5]
local moving = {}
for i = 6, #ARGV do
  local row = redis.call('HGET', groups, ARGV[i])
  if not row then return redis.error_reply('RLSERVE NEVER ' .. i - 6) end
  local present, at, arrival, why, info = parsed(row)
  if present == 'q' then
    moving[#moving + 1] = {ARGV[i], arrival, info}
  elseif present ~= state or at ~= step or why ~= reason then
    return redis.error_reply('RLSERVE PLACED ' .. i - 6 .. ' ' .. present .. ' ' .. at)
  end
end
for _, group in ipairs(moving) do
  local id, arrival, info = unpack(group)
  if redis.call('ZREM', queue, id) == 1 then
    redis.call('HSET', groups, id, joined(state, step, arrival, reason, info))
    redis.call('HINCRBY', counts, counter(state, reason), 1)
    if step == '' then redis.call('HDEL', payloads, id) else redis.call('ZADD', left, step, id) end
  end
end
return done(#moving)
"""
)
"""writer, writes, state, reason, step (empty: final), ids."""

CHECKPOINT = (
    _NAMES
    + _ALWAYS
    + _PRELUDE
    + r"""
local gone = redis.call('ZRANGEBYSCORE', left, '-inf', ARGV[3], 'WITHSCORES')
for i = 1, #gone, 2 do redis.call('HDEL', payloads, gone[i]) end
if #gone > 0 then
  redis.call('ZREMRANGEBYSCORE', left, '-inf', ARGV[3])
  -- By score, so that the last one is the newest.
  local newest = math.max(tonumber(gone[#gone]), tonumber(redis.call('HGET', meta, 'deleted') or gone[#gone]))
  redis.call('HSET', meta, 'deleted', newest)
end
return done(#gone / 2)
"""
)
"""writer, writes, step."""

ROLLBACK = (
    _NAMES
    + _ALWAYS
    + _ROW
    + _PRELUDE
    + r"""
local deleted = redis.call('HGET', meta, 'deleted')
if deleted and tonumber(deleted) > tonumber(ARGV[3]) then return redis.error_reply('RLSERVE GONE ' .. deleted) end
local back = redis.call('ZRANGEBYSCORE', left, '(' .. ARGV[3], '+inf')
for _, id in ipairs(back) do
  local state, _, arrival, reason, info = parsed(redis.call('HGET', groups, id))
  redis.call('ZREM', left, id)
  redis.call('HSET', groups, id, joined('q', '', arrival, '', info))
  redis.call('HINCRBY', counts, counter(state, reason), -1)
  redis.call('ZADD', queue, arrival, id)
end
return done(#back)
"""
)
"""writer, writes, step."""

REMEMBER = _NAMES + _ALWAYS + _PRELUDE + "redis.call('HSET', facts, ARGV[3], ARGV[4])\nreturn done(0)\n"
"""writer, writes, key, value."""

MARK = _NAMES + _ALWAYS + _PRELUDE + "return done(redis.call('HINCRBY', meta, 'sequence', 1))\n"
"""writer, writes -> sequence."""

# Scripts and not MULTI: at its memory limit Redis queues no commands.
COUNT = _NAMES + "return {redis.call('HGETALL', counts), redis.call('ZCARD', queue), redis.call('HLEN', groups)}\n"
"""-> counts as pairs, queued, rows."""

HEAD = (
    _NAMES + "return {redis.call('HGETALL', meta), redis.call('HGETALL', facts), redis.call('HGETALL', rejections)}\n"
)
"""-> each as pairs."""

MOVE = r"""
for i = 1, #KEYS, 3 do
  redis.call('DEL', KEYS[i + 2])
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then redis.call('RENAME', KEYS[i + 1], KEYS[i + 2]) end
  if redis.call('EXISTS', KEYS[i]) == 1 then redis.call('RENAME', KEYS[i], KEYS[i + 1]) end
end
return 0
"""
"""For each name three keys: of the store that moves in, of the one that moves out, and where that is kept."""
