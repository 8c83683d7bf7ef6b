"""What entries say beside the steps, as `engine/standing.py` reads them: for an attempt, and for the rules."""

from __future__ import annotations

from collections.abc import Iterable

from simulation.world import Attempt

#: Entries that change what an attempt makes of the others.
STANDING = frozenset(("attempt", "intent", "resolve", "pause", "unpause", "handover", "rollback", "undo", "reopen"))


def absorbed(me: Attempt, kind: str, data: str, mine: str) -> Attempt:
    """What an attempt knows after one of these entries. `mine`: its run."""
    what = data.partition(" ")[0]
    if kind == "attempt":
        return me._replace(handed=False)
    if kind == "intent":
        return me._replace(doubts=me.doubts | {data.rpartition(":")[0]})
    if kind == "undo":
        run, at, how = data.split(":")
        if int(run) != me.run:
            return me
        undone = me.undone | {int(at)} if how == "done" else me.undone
        return me._replace(undone=undone, undo_failures=0 if how == "done" else me.undo_failures + 1)
    if not data.endswith(mine):
        return me
    if kind == "resolve":
        identity, how = what.rpartition(":")[::2]
        if identity not in me.doubts:
            return me
        known = me.known if how == "rerun" else me.known | {(identity, "resolved")}
        return me._replace(doubts=me.doubts - {identity}, known=known)
    if kind in ("pause", "unpause"):
        return me._replace(paused=kind == "pause")
    if kind == "handover":
        return me._replace(handed=True)
    if kind == "rollback":
        return me._replace(rolling=what)
    undoing, _, anew = what.partition("=")  # reopen
    again = {f"{me.run}:{at}" for at in anew.split(",")}
    return me._replace(
        known=frozenset(step for step in me.known if step[0] not in again),
        undone=frozenset(at for at in me.undone if f"{me.run}:{at}" not in again),
        rolling=me.rolling if undoing == "undoing" else "",
        paused=False,
        undo_failures=0,
    )


def doubts(entries: Iterable[tuple[str, tuple[str, ...]]]) -> set[str]:
    """Steps that were begun at most once and have no outcome."""
    found: set[str] = set()
    for _, (kind, data, *_) in entries:
        if kind == "intent":
            found.add(data.rpartition(":")[0])
        elif kind == "step":
            found.discard(data.rpartition(":")[0])
        elif kind == "resolve":
            found.discard(data.split(" ")[0].rpartition(":")[0])
    return found


def standing_steps(entries: Iterable[tuple[str, tuple[str, ...]]]) -> list[str]:
    """Recorded steps, each as often as it is recorded; what a reopening takes back is left out."""
    found: list[str] = []
    for _, (kind, data, *_) in entries:
        if kind == "step":
            found.append(data.rpartition(":")[0])
        elif kind == "reopen":
            what, run = data.split(" ")[0], data.split("/")[1]
            again = {f"{run}:{at}" for at in what.partition("=")[2].split(",")}
            found = [step for step in found if step not in again]
    return found
