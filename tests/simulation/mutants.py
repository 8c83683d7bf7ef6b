"""Rules taken out of the scripts, one at a time, each with bounds in which the simulation must notice."""

from __future__ import annotations

from typing import NamedTuple

from simulation.requests import scripts
from simulation.world import Scenario, bounds


class Mutant(NamedTuple):
    """Scripts of which one rule is taken out."""

    rule: str
    script: str  # "_namespace": in every script that has these lines in front
    old: str
    new: str
    scenario: Scenario

    def scripts(self) -> dict[str, str]:
        """All scripts, without the rule."""
        sources = scripts()
        names = [name for name, source in sources.items() if self.script in (name, "_namespace") and self.old in source]
        assert names, f"{self.rule}: {self.script} does not say {self.old!r} any more"
        return {**sources, **{name: sources[name].replace(self.old, self.new) for name in names}}


# One line a mutant.
# fmt: off
MUTANTS = (
    Mutant('a run that another settles is left to it', 'claim', "settler ~= token and ahead(t .. ':settling')", 'false', bounds('s', crash=1, dup=1)),
    Mutant('a run whose journal is gone is LOST', 'claim', "if tip and redis.call('EXISTS', J) == 0 then return {'LOST'} end", '', bounds('s', wiped=('journal',), wipe=1, crash=1)),
    Mutant('a message with fewer retries than the run is stale', 'claim', "if known and retries < num(t .. ':retries') then return {'STALE_MESSAGE'} end", '', bounds('ys', dup=1)),
    Mutant('a claim sent again is known by its nonce', 'claim', "owner == token and get('nonce') == nonce", 'false', bounds('ss', max_crashes=1, late=1)),
    Mutant('a reclaim is for the owner only', 'claim', "not (owner == token and get('owner_fence') == expect)", 'false', bounds('s+s', cancel=1, stall=1)),
    Mutant('a run that waits is not claimed before its time', 'claim', 'now < wake then', 'false then', bounds('zs')),
    Mutant('a retry waits for its time', 'claim', " or known == 'retrying')", ')', bounds('ys')),
    Mutant("the owner's run is not held behind itself", 'claim', "if live() and get('owner_run') == t then return {'HELD'} end", '', bounds('s', dup=1)),
    Mutant('a held run keeps its place', 'claim', "'NX', ", '', bounds('s+s+s', workers=3)),
    Mutant("a held run's message is stored", 'claim', "  remember()\n  if known ~= 'held'", "  if known ~= 'held'", bounds('s+s')),
    Mutant('the head of held has a ticket', 'claim', '  ticket(head, free)\n', '', bounds('s+s')),
    Mutant('a claim moves the ticket behind the lease', 'claim', 'ticket(t, now + ttl)\nreturn granted', 'return granted', bounds('s')),
    Mutant('a claim gives the new head of held a ticket', 'claim', 'if head then ticket(head, now + ttl) end\n', '', bounds('s+s+s', workers=3)),
    Mutant('a claim takes the run out of held', 'claim', "redis.call('ZREM', H, t)\n", '', bounds('s+s')),
    Mutant('the message moves up with the retries', 'claim', "  redis.call('HSET', M, t, message)\n", '', bounds('mys', dup=1, crash=1)),
    Mutant('the retries move up with the message', 'claim', "set(t .. ':retries', text(retries))", '', bounds('mys', crash=1, dup=1)),
    Mutant('a stored message brings its retries', 'claim', ", t .. ':retries', text(retries))", ')', bounds('mys+s', dup=1)),
    Mutant('an owner that vanished counts a crash', 'claim', "redis.call('HINCRBY', R, gone .. ':crashes', '1')", '', bounds('k', workers=1, max_crashes=2)),
    Mutant('a claim stops the keys from expiring', 'claim', "redis.call('PERSIST', key)", '', bounds('s+s', workers=1)),
    Mutant('open runs are counted up', 'claim', "redis.call('HINCRBY', R, 'open', '1') == 1", 'true', bounds('s+s')),
    Mutant("nobody claims in another's turn", 'claim', "(live() or waiting or early)", '(live() or early)', bounds('s+s+s', workers=3)),
    Mutant('a turn ends with its claim', 'claim', "if turn == t then set('turn', '') end", '', bounds('s+s+s', workers=3)),
    Mutant('the journal knows the outcome when the hash is gone', 'claim', 'if not outcome and not tip then', 'if false then', bounds('s', wiped=('run',), wipe=1, dup=1)),
    Mutant('known_only opens nothing', 'claim', "if ARGV[10] == '1' and not known then return {'UNKNOWN'} end", '', bounds('n', crash=1)),
    Mutant('a claimed run is running', 'claim', "status(t, 'running')\nset", 'set', bounds('s')),
    Mutant('who settles moves the ticket', 'claim', "  ticket(t, now + ttl)\n  return {'FINISHED'", "  return {'FINISHED'", bounds('s', workers=1, wiped=('run',), crash=1, loss=1, wipe=1)),
    Mutant('who claims a finished run settles it', 'claim', "t .. ':settler', token, t .. ':settling', text(now + ttl))\n  if not known", "t .. ':settling', text(now + ttl))\n  if not known", bounds('s', crash=1)),
    Mutant('a lease from before the clock stepped back is over', '_namespace', "return now < at and at <= now + num('ttl') end", 'return now < at end', bounds('k', workers=1, max_crashes=1, clock=1)),
    Mutant('a fence is above the journal', '_namespace', 'ms + 1)', '0)', bounds('s', wiped=('run',), wipe=1, crash=1)),
    Mutant("the tip carries the claim's uid", '_namespace', "fence .. '-0 ' .. uid)", "fence .. '-0 ')", bounds('s')),
    Mutant("the uid is the claim's own", '_namespace', 'string.sub(nonce, 1, 16)', "'x'", bounds('s', failover=1, dup=1)),
    Mutant('a release clears the owner', '_namespace', "set('owner', '')", '', bounds('zs', max_crashes=1)),
    Mutant('a release makes the head of held due', '_namespace', '  ticket(head, now)\n  set(head', '  set(head', bounds('s+s')),
    Mutant('a release gives the head of held its turn', '_namespace', ", 'turn', head, 'turn_until', text(now + num('ttl'))", '', bounds('s+s')),
    Mutant('a head that leaves held hands on its ticket', '_namespace', "if head then ticket(head, live() and num('lease') or now) end", '', bounds('s+s+s', wiped=('journal',), wipe=1)),
    Mutant('COMMIT compares the tip', 'commit', 'if tip ~= ARGV[1] then return 0 end', '', bounds('s', stall=1)),
    Mutant('COMMIT knows itself when sent again', 'commit', 'if tip == ARGV[2] then return 1 end', '', bounds('ss', late=1)),
    Mutant('COMMIT creates no journal', 'commit', "'NOMKSTREAM', ", '', bounds('ss', wiped=('journal',), wipe=1)),
    Mutant('a new record resets the crash count', 'commit', ", ARGV[3], '0')", ')', bounds('s', crash=1)),
    Mutant('SUSPEND compares the tip', 'suspend', 'tip ~= ARGV[5] or ', '', bounds('z', cancel=1)),
    Mutant('SUSPEND is for the owner', 'suspend', " or get('owner') ~= ARGV[4]", '', bounds('z', workers=1, shutdown=1, late=1)),
    Mutant('SUSPEND knows itself when sent again', 'suspend', "if tip == ARGV[6] then return {1, ''} end", '', bounds('zs', late=1)),
    Mutant('SUSPEND creates no journal', 'suspend', "'NOMKSTREAM', ", '', bounds('z', wiped=('journal',), wipe=1)),
    Mutant('SUSPEND sets the wake time', 'suspend', "t .. ':wake', text(wake), ", '', bounds('zs')),
    Mutant('a suspended run is suspended', 'suspend', "status(t, 'suspended')", '', bounds('zs')),
    Mutant('SUSPEND sets the ticket', 'suspend', 'ticket(t, wake)', 'drop_ticket(t)', bounds('zs')),
    Mutant('SUSPEND frees the namespace', 'suspend', '{1, release()}', "{1, ''}", bounds('zs', max_crashes=1)),
    Mutant('RETRY compares the tip', 'retry', 'tip ~= ARGV[5] or ', '', bounds('y', cancel=1)),
    Mutant('RETRY is for the owner', 'retry', " or get('owner') ~= ARGV[4]", '', bounds('y', workers=1, shutdown=1, late=1)),
    Mutant('RETRY knows itself when sent again', 'retry', "if tip == ARGV[6] then return {1, ''} end", '', bounds('ys', late=1)),
    Mutant('RETRY resets the crash count', 'retry', ", t .. ':crashes', '0'", '', bounds('y', crash=1)),
    Mutant('RETRY moves the retries up', 'retry', "set(t .. ':retries', ARGV[10])", '', bounds('ys', dup=1)),
    Mutant('RETRY stores the message', 'retry', "redis.call('HSET', M, t, ARGV[11])", '', bounds('ys')),
    Mutant('RETRY sets the wake time', 'retry', "t .. ':wake', text(wake), ", '', bounds('ys')),
    Mutant('RETRY sets the ticket', 'retry', 'ticket(t, wake)', 'drop_ticket(t)', bounds('ys')),
    Mutant('RETRY frees the namespace', 'retry', '{1, release()}', "{1, ''}", bounds('ys', max_crashes=1)),
    Mutant('FINISH compares the tip', 'finish', "get('tip') ~= ARGV[5] or ", '', bounds('s', cancel=1)),
    Mutant('FINISH is for the owner', 'finish', " or get('owner') ~= token", '', bounds('s', workers=1, shutdown=1, late=1)),
    Mutant('FINISH knows itself when sent again', 'finish', "if get(t .. ':outcome') then", 'if false then', bounds('s', late=1)),
    Mutant('FINISH tells who finished', 'finish', "get(t .. ':settler') == token and {1, ''} or {2}", "{1, ''}", bounds('s', stall=1)),
    Mutant('FINISH creates no journal', 'finish', "'NOMKSTREAM', ", '', bounds('s', wiped=('journal',), wipe=1)),
    Mutant('FINISH begins a settling lease', 'finish', ", t .. ':settling', text(over)", '', bounds('s')),
    Mutant('FINISH keeps a ticket', 'finish', 'ticket(t, over)', 'drop_ticket(t)', bounds('s')),
    Mutant('FINISH frees the namespace', 'finish', '{1, release()}', "{1, ''}", bounds('s+s')),
    Mutant('SETTLE is for the settler', 'settle', "if get(t .. ':settler') ~= ARGV[4] then return 0 end", '', bounds('sf', stall=1)),
    Mutant('SETTLE settles once', 'settle', "if not get(t .. ':settled') then\n", 'if true then\n', bounds('s', late=1)),
    Mutant('SETTLE drops the ticket', 'settle', '  drop_ticket(t)\n', '', bounds('s')),
    Mutant('SETTLE moves the index', 'settle', '  status(t, ARGV[5])\n', '', bounds('s')),
    Mutant('SETTLE counts open runs down', 'settle', "redis.call('HINCRBY', R, 'open', '-1')", '', bounds('s')),
    Mutant('SETTLE lets the keys expire', 'settle', "if num('open') <= 0 then keys_expire(ARGV[6]) end", '', bounds('s')),
    Mutant('SETTLE lets no keys of open runs expire', 'settle', "if num('open') <= 0 then keys_expire", 'if true then keys_expire', bounds('s+s')),
    Mutant('RELEASE is for the owner', 'release', "not holds(get('owner')) or ", '', bounds('ss', shutdown=1, dup=1)),
    Mutant('RELEASE frees the namespace', 'release', '{1, release()}', "{1, ''}", bounds('s', max_crashes=1, shutdown=1)),
    Mutant('RELEASE sets the ticket', 'release', 'ticket(t, now + tonumber(ARGV[5]))\nreturn', 'return', bounds('s', shutdown=1)),
    Mutant('RENEW is for the owner', 'renew', "if get('owner') == ARGV[4] then", 'if true then', bounds('ss', stall=1)),
    Mutant('RENEW extends the lease', 'renew', "set('lease', text(till))", '', bounds('ss', stall=1)),
    Mutant('RENEW moves the ticket', 'renew', "  if t ~= '' then ticket(t, till) end\n", '', bounds('ss', stall=1)),
    Mutant('VERDICT leaves a settled run alone', 'verdict', "if get(t .. ':settled') then return {'NOTHING'} end", '', bounds('s', kill=1)),
    Mutant('VERDICT breaks a settling lease', 'verdict', "if get(t .. ':outcome') then", 'if false then', bounds('s', limit=1)),
    Mutant("VERDICT breaks only the dead child's settling lease", 'verdict', "if of(get(t .. ':settler')) then", 'if true then', bounds('s', limit=1)),
    Mutant('VERDICT leaves what is not open to Celery', 'verdict', "if not get(t .. ':status') then return {'CELERY'} end", '', bounds('s', limit=1)),
    Mutant('VERDICT knows itself when sent again', 'verdict', "if get('owner') == main and get('nonce') == nonce then", 'if false then', bounds('s', limit=1, late=1)),
    Mutant('VERDICT takes only what the dead child owned', 'verdict', "of(get('owner')) and get('owner_run') == t", "get('owner_run') == t", bounds('s', limit=1)),
    Mutant("VERDICT breaks a lost child's lease", 'verdict', "set('lease', '0')", '', bounds('s', kill=1)),
    Mutant('VERDICT makes the head of held due', 'verdict', 'if head then ticket(head, now) end', '', bounds('s+s', kill=1)),
    Mutant('VERDICT creates no journal', 'verdict', " or redis.call('EXISTS', J) == 0 then", ' then', bounds('s', wiped=('journal',), limit=1, wipe=1)),
    Mutant('VERDICT of a revoke is a cancel', 'verdict', "what == 'cancelled' and 'cancel' or 'verdict'", "'verdict'", bounds('s', revoke=1, crash=1)),
    Mutant('VERDICT leaves an entry that the next attempt reads', 'verdict', "what == 'cancelled' and 'cancel' or 'verdict'", "'x'", bounds('s', revoke=1)),
    Mutant('CONTROL refuses a finished run', 'control', "if get(t .. ':outcome') then return {'REFUSED', known} end", '', bounds('s', cancel=1)),
    Mutant('CONTROL refuses an unknown run', 'control', "if not known then return {'UNKNOWN'} end", '', bounds('s+s', cancel=1)),
    Mutant('CONTROL creates no journal', 'control', "if redis.call('EXISTS', J) == 0 then", 'if false then', bounds('s', wiped=('journal',), cancel=1, wipe=1)),
    Mutant('CONTROL knows itself when sent again', 'control', "if get(t .. ':control') ~= ARGV[5] then", 'if true then', bounds('z', cancel=1, late=1)),
    Mutant('CONTROL ends the wait', 'control', "    set(t .. ':wake', text(now))\n", '', bounds('z', cancel=1)),
    Mutant('CONTROL makes the ticket due', 'control', '    ticket(t, now)\n', '', bounds('z', cancel=1)),
    Mutant('ABANDON ends a run once', 'abandon', "get(t .. ':outcome') or ", '', bounds('s', wiped=('journal',), wipe=1, dup=1)),
    Mutant('ABANDON leaves an unknown run alone', 'abandon', " or not get(t .. ':status')", '', bounds('s+s', wiped=('journal',), wipe=1)),
    Mutant('ABANDON takes the run out of held', 'abandon', 'unheld(t)\n', '', bounds('s+s', wiped=('journal',), wipe=1)),
    Mutant('ABANDON keeps a ticket', 'abandon', 'ticket(t, over)\n', 'drop_ticket(t)\n', bounds('s', wiped=('journal',), wipe=1, crash=1)),
    Mutant('ABANDON frees the namespace', 'abandon', '{1, release()}', "{1, ''}", bounds('ss', wiped=('journal',), wipe=1)),
    Mutant('SWEEP pushes tickets on', 'sweep', "redis.call('ZADD', KEYS[1], text(now + ttl * 2 ^ math.min(pushes, 7)), member)", '', bounds('s', crash=1)),
    Mutant('SWEEP drops the ticket of a namespace that is gone', 'sweep', "if redis.call('EXISTS', R) == 1 then", 'if true then', bounds('s', wipe=1)),
    Mutant('BORROW creates no journal', 'borrow', "if get('tip') and redis.call('EXISTS', J) == 0 then return {'LOST'} end", '', bounds('s+b', wiped=('journal',), wipe=1)),
    Mutant('BORROW knows itself when sent again', 'borrow', "owner == token and get('nonce') == ARGV[5]", 'false', bounds('b', late=1)),
    Mutant('BORROW respects a lease', 'borrow', 'if owner ~= token and live() then', 'if false then', bounds('s+b')),
    Mutant('BORROW respects a turn', 'borrow', "if owner ~= token and (get('turn') or '') ~= '' and ahead('turn_until') then", 'if false then', bounds('s+b+b')),
    Mutant('BORROW counts the crash of an owner that vanished', 'borrow', "redis.call('HINCRBY', R, get('owner_run') .. ':crashes', '1')", '', bounds('k+b', max_crashes=2)),
    Mutant('BORROW lets the keys expire', 'borrow', "if num('open') <= 0 then keys_expire(ARGV[8]) end", '', bounds('b')),
    Mutant('GIVEBACK compares the tip', 'giveback', 'tip ~= ARGV[5] or ', '', bounds('s+b', cancel=1)),
    Mutant('GIVEBACK knows itself when sent again', 'giveback', "if tip == ARGV[6] then return {1, ''} end", '', bounds('b', late=1)),
    Mutant('GIVEBACK creates no journal', 'giveback', "'NOMKSTREAM', ", '', bounds('s+b', wiped=('journal',), wipe=1)),
    Mutant('GIVEBACK of nothing is for the borrower', 'giveback', "elseif get('owner') ~= ARGV[4] then", 'elseif false then', bounds('b+b+b', stall=1)),
    Mutant('GIVEBACK frees the namespace', 'giveback', 'return {1, release()}', "return {1, ''}", bounds('s+b')),
)
# fmt: on
