"""What one request may do to Redis: asked of every pair of states before and after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celery_steps.engine.entries import NEVER
from celery_steps.store.keys import FINAL
from simulation import requests
from simulation.redis_in_python import Command, Data
from simulation.requests import DUE, FUTURE, KEYS, NOW, WAITING

if TYPE_CHECKING:
    from simulation.world import Attempt

#: Entries that begin a new fence for whoever wrote them.
CLAIMS = ("attempt", "borrow", "reclaim", "verdict", "cancel")
_LEAVES = ("suspend", "retry", "finish", "giveback")
#: Which arguments of a script these are, after its keys.
_RUN, _TOKEN, _NONCE = 2, 3, 4


def broken(before: Data, after: Data, me: Attempt, command: Command, reply: Any) -> Iterator[str]:
    """The rules that this request of `me` broke."""
    if command[0] != "EVALSHA":
        return
    script = command[1]
    old, new = before.get(KEYS.run, {}), after.get(KEYS.run, {})
    name = requests.field(me.run)
    entries = _entries(after)[len(_entries(before)) :]
    if entries:
        yield from _claimed(old, new, me, entries[-1][1][0])
        yield from _appended(before, after, me, entries[-1][1][0])
    yield from _held(before, after)
    if old.get("owner") and not new.get("owner"):
        yield from _freed(old, after, me, script)
    accepted = isinstance(reply, tuple) and reply[0] == 1
    if accepted and script in (*_LEAVES, "release") and new.get("owner") == me.token:
        yield f"L5 {script} leaves the namespace owned"
    if accepted and script == "abandon" and new.get("owner") and new.get("owner_run") == name:
        yield "L5 abandon leaves the namespace owned"
    leaves = script == "suspend" and requests.arguments(command)[6] == "0"
    if (
        accepted
        and script in ("suspend", "retry")
        and old != new
        and not leaves
        and new.get(f"{name}:wake") not in (str(FUTURE), str(NEVER))
    ):
        yield "S7 what waits has no time to wake at"
    recorded = (accepted and script == "retry") or (reply == 1 and script in ("commit", "receive") and bool(entries))
    if entries and (entries[-1][1][0] == "intent" or entries[-1][1][1].endswith(":failed")):
        recorded = False  # nothing has come of anything yet
    if recorded and new.get(f"{name}:crashes", "0") != "0":
        yield "S9 a crash before a new record still counts"
    if script == "renew" and reply != "0" and new.get("owner_run") == name and _due(after, name) <= NOW:
        yield "L5 a renewed run is due"
    if script == "suspend" and reply == (3,) and before != after:
        yield "E4 a refused suspension changes something"
    if script == "verdict":
        yield from _judged(old, new, after, me, reply)
    written = old.get("tip") == f"{me.fence}-{me.n + 1} {me.uid}"
    if written and reply in (0, (0,)) and script in ("commit", "receive", *_LEAVES):
        yield "L5 a request that is sent again is not known again"


def sent(before: Data, after: Data, command: Command) -> Iterator[str]:
    """The rules that a request breaks, whoever sends it and however late it is."""
    if len(_entries(after)) <= len(_entries(before)):
        return
    script, arguments = command[1], requests.arguments(command)
    old = before.get(KEYS.run, {})
    if script in _LEAVES and old.get("owner") != arguments[_TOKEN]:
        yield f"P2 {script} of one that does not own the namespace"
    owned = script in ("claim", "borrow") and old.get("owner") == arguments[_TOKEN] and old.get("nonce") == arguments[_NONCE]
    if owned or (
        script in ("control", "reopen")
        and old.get(f"{arguments[_RUN]}:control") == arguments[_NONCE if script == "control" else _TOKEN]
    ):
        yield "L5 a request that is sent again is applied again"


def delivered(before: Data, after: Data, command: Command, reply: Any) -> Iterator[str]:
    """What DELIVER may do."""
    _, _, name, event, id, _, wait, _ = requests.arguments(command)
    old, new = before.get(KEYS.run, {}), after.get(KEYS.run, {})
    due = set(reply[2:])
    for run in [field.removesuffix(":status") for field in old if field.endswith(":status")]:
        was, now = ((fields.get(f"{run}:wake"), _due(data, run)) for fields, data in ((old, before), (new, after)))
        if run not in due and was != now:
            yield "E3 an event moves the ticket of a run that it does not wake"
        if run in due and old[f"{run}:status"] != "suspended":
            yield "E3 an event publishes a run that does not wait"
        if run in due and now != ("0", 0.0):
            yield "E3 a run that is to be published is not due"
    if id in before.get(KEYS.heard, {}):
        if reply[0] != 1 or due or before != after:
            yield "E2 an event that is sent again does something"
        return
    if not event:
        if reply[0] != int(f"{name}:status" in old and f"{name}:outcome" not in old):
            yield "E4 a child's end is accepted that nobody can take, or refused that somebody can"
        return
    waiters = {member for member in before.get(WAITING, {}) if not wait or member == f"{KEYS.member(name)} {wait}"}
    open_to = bool(waiters) if wait else old.get("open") != "0"
    if reply[0] != int(open_to):
        yield "E4 an event is accepted that nobody can take, or refused that somebody can"
    if reply[0] and reply[1] != str(len(waiters)):
        yield "E4 an event counts other waits than those that it reached"


def _freed(old: dict[str, str], after: Data, me: Attempt, script: str) -> Iterator[str]:
    new = after[KEYS.run]
    head = _head(after)
    if head and _due(after, head) > NOW:
        yield "L5 the head of held is not due when the namespace is free"
    if head and (new.get("turn") != head or new.get("turn_until") != str(FUTURE)):
        yield "L5 the head of held does not get its turn"
    if old["owner"] != me.token and script != "abandon":
        yield "P2 a stale owner frees the namespace"


def _judged(old: dict[str, str], new: dict[str, str], after: Data, me: Attempt, reply: Any) -> Iterator[str]:
    name, head = requests.field(me.run), _head(after)
    if reply == ("OPEN",) and (new["lease"] != "0" or (head and _due(after, head) > NOW)):
        yield "L5 a dead child's lease is not broken"
    settler = old.get(f"{name}:settler")
    settles = settler is not None and settler.startswith(me.process) and f"{name}:settled" not in old
    if settles and new[f"{name}:settling"] != "0":
        yield "L5 a dead child's settling lease is not broken"
    if old.get("owner") == me.token and reply[0] != "TAKEN":
        yield "L5 a request that is sent again is not known again"
    if reply == ("NOTHING",) and f"{name}:status" not in old:
        yield "S8 the message of a run that nobody knows is dropped"


#: In which statuses what may be asked.
_OPEN = {"running", "held", "suspended", "retrying", "paused", "in_doubt"}
_MAY = {
    "cancel": _OPEN,
    "pause": _OPEN,
    "unpause": {"paused", "running", "held"},
    "resolve": {"in_doubt"},
}
_WAIT = ("suspended", "retrying", "paused", "in_doubt")


def asked(before: Data, after: Data, run: int, what: str, reply: Any, owner: str = "") -> Iterator[str]:
    """What a request from outside must have done, or must not."""
    name, old, new = requests.field(run), before.get(KEYS.run, {}), after.get(KEYS.run, {})
    was, now = old.get(f"{name}:status", ""), new.get(f"{name}:status", "")
    pausing = f"{name}:paused" in old
    owns = bool(owner) and old.get("owner", "").startswith(owner) and old.get("owner_run") == name
    allowed = owns if owner else was in _MAY[what] or (what == "unpause" and pausing and was not in FINAL)
    if (reply[0] == "OK" and f"{name}:outcome" in old) or (
        reply[0] in ("OK", "REFUSED") and was and (reply[0] == "OK") != (allowed and f"{name}:outcome" not in old)
    ):
        yield f"C1 {what} of a run that is {was} is {reply[0]}"
    if reply[0] != "OK":
        if before != after:
            yield f"C2 {what} is refused and changes something"
        return
    times = [(fields.get(f"{name}:wake"), _due(data, name)) for fields, data in ((old, before), (new, after))]
    wakes = was in _WAIT and (what in ("cancel", "resolve") or (what == "unpause" and was == "paused"))
    if wakes and times[1] != ("0", 0.0):
        yield "L5 a control entry does not wake the run"
    if what == "pause" and was in ("suspended", "retrying"):
        if now != "paused" or times[1] != (str(NEVER), NEVER):
            yield "C3 a run that waits is paused, and its ticket is not put off"
    elif not wakes and times[0] != times[1]:
        yield f"C3 {what} moves the ticket of a run that it does not wake"
    if what in ("pause", "unpause") and (f"{name}:paused" in new) != (what == "pause"):
        yield "C4 nobody can tell whether the run is paused"
    if wakes and now == "paused":
        yield "C4 a run that is woken is paused"
    if _entries(after)[-1][1][0] != what:
        yield f"C5 {what} leaves no entry"


def reopened(before: Data, after: Data, run: int) -> Iterator[str]:
    """What a reopening must have done."""
    name, old, new = requests.field(run), before.get(KEYS.run, {}), after.get(KEYS.run, {})
    if old.get(f"{name}:settled") not in ("failed", "cancelled"):
        yield "O1 a run is reopened that has not failed and is not cancelled"
    if name not in before.get(KEYS.messages, {}):
        yield "O1 a run is reopened that nobody can deliver"
    undoing = _entries(after)[-1][1][1].startswith("undoing")
    if any(f"{name}:{field}" in new for field in ("outcome", "settler", "settling", "settled")):
        yield "O2 a reopened run has an end"
    if (f"{name}:rolling" in new) != undoing or new[f"{name}:status"] != ("rolling_back" if undoing else "suspended"):
        yield "O2 nobody can tell whether a reopened run only undoes"
    if (new.get(f"{name}:wake"), _due(after, name)) != ("0", 0.0):
        yield "O3 a reopened run is not due"
    if int(new.get(f"{name}:reopened", 0)) != int(old.get(f"{name}:reopened", 0)) + 1:
        yield "O4 one end is taken away twice"
    if new.get(f"{name}:control") == old.get(f"{name}:control"):
        yield "O4 nobody can tell that this has been asked"
    if new.get(f"{name}:crashes") != "0":
        yield "O3 a reopened run begins with crashes"


def taken(entries: Any) -> Iterator[str]:
    """Ids of the events that steps say they took."""
    values = (fields[1].rpartition("=")[2] for _, fields in entries if fields[0] == "step" and "=" in fields[1])
    return filter(None, values)


def _entries(data: Data) -> Any:
    return data.get(KEYS.journal, ((), ""))[0]


def _head(data: Data) -> str:
    held: dict[str, float] = data.get(KEYS.held, {})
    return min(held, key=held.__getitem__, default="")


def _due(data: Data, name: str) -> float:
    at: float = data.get(DUE, {}).get(KEYS.member(name), FUTURE)
    return at


def _claimed(old: dict[str, str], new: dict[str, str], me: Attempt, kind: str) -> Iterator[str]:
    if kind not in ("attempt", "borrow"):
        return
    name = requests.field(me.run)
    turn = old.get("turn", "") if old.get("turn_until") == str(FUTURE) else ""
    if turn not in ("", name):
        yield "S6 a claim in another run's turn"
    if kind == "attempt" and new.get("turn") == name:
        yield "S6 a turn outlives the claim"
    waits = old.get(f"{name}:status") in (*_WAIT, "rolling_back")
    if kind == "attempt" and old.get(f"{name}:wake") in (str(FUTURE), *([str(NEVER)] if waits else [])):
        yield "S7 woken before its time"
    gone = old.get("owner_run", "")
    vanished = bool(gone) and old.get("owner", "") not in ("", me.token)
    if vanished and int(new.get(f"{gone}:crashes", 0)) != int(old.get(f"{gone}:crashes", 0)) + 1:
        yield "S9 a crash is not counted"


def _appended(before: Data, after: Data, me: Attempt, kind: str) -> Iterator[str]:
    """Who writes is the last claimant, and knows what is in the journal."""
    if kind in CLAIMS or me.what == "reopen":
        return
    # A cancel of the main process names it, and is a claim; another cancel is not.
    claims = [data.split()[0] for _, (kind, data, *_) in _entries(after) if kind in CLAIMS and (kind != "cancel" or " " in data)]
    if claims and claims[-1] != me.name:
        yield "P2 a stale owner's entry is accepted"
    steps = {tuple(data.rpartition(":")[::2]) for _, (kind, data, *_) in _entries(before) if kind == "step"}
    steps |= {
        (data.split(" ")[0].rpartition(":")[0], "resolved") for _, (kind, data, *_) in _entries(before) if kind == "resolve"
    }
    if not me.known <= steps:
        yield "P5 an entry is accepted though what it builds on is not in the journal"


def _held(before: Data, after: Data) -> Iterator[str]:
    old, new = before.get(KEYS.held, {}), after.get(KEYS.held, {})
    stay = [name for name in sorted(old, key=old.__getitem__) if name in new]
    if stay != [name for name in sorted(new, key=new.__getitem__) if name in old]:
        yield "S6 a held run loses its place"
