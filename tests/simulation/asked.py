"""What is asked of a run from outside: cancel, pause, unpause, resolve, handover."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulation import requests
from simulation.explorer import Kind, Move
from simulation.rules import asked
from simulation.standing import doubts
from simulation.world import NOBODY, World

if TYPE_CHECKING:
    from simulation.environment import Environment

ASKED = ("cancel", "pause", "unpause", "resolve", "handover")


def moves(env: Environment, world: World) -> Iterator[Move[World]]:
    for what in ASKED:
        if world.may(what):
            for run in range(len(world.runs)):
                for said in _said(env, world, run, what):
                    for owner in _owners(env, world, run, what):
                        yield from _asks(env, world, run, what, said, **owner)


def _owners(env: Environment, world: World, run: int, what: str) -> list[dict[str, str]]:
    """Whom a request names, beside the run: a handover the process that shuts down, which may be at another run by then."""
    if what != "handover":
        return [{}]
    return [{"owner": f"{one.name}/"} for one in world.attempts if not one.is_main and one.name != NOBODY]


def _said(env: Environment, world: World, run: int, what: str) -> list[str]:
    """What the entry says before the run's name."""
    if what != "resolve":
        return [""]
    those = [step for step in doubts(env.journal(world)) if step.startswith(f"{run}:")]
    return [f"{step}:{how} " for step in those for how in ("done", "rerun")]


def _asks(env: Environment, world: World, run: int, what: str, said: str, **owner: str) -> Iterator[Move[World]]:
    entry = f"{said}{requests.field(run)}".encode()
    (command,) = requests.store(run, "control", what=what, nonce=f"{what}{sum(world.budget)}", entry=entry, **owner)
    after, reply, wrong = env.apply(world.spend(what), command)
    wrong = (*wrong, *asked(env.redis.data(world.redis), env.redis.data(after.redis), run, what, reply, **owner))
    if reply[0] == "OK" and env.of(after, run, "control") != requests.arguments(command)[4]:
        wrong = (*wrong, "C6 nobody can tell that this has been asked")
    if not wrong and reply[0] != "OK":
        return
    if what == "cancel":
        if env.of(world, run, "status") is None:
            wrong = (*wrong, "S8 a run that nobody knows is cancelled")
        after = told(after, run)
    if said.endswith("rerun "):
        after = after._replace(called=after.called - {said.rpartition(":")[0]})
    label = f"CONTROL {what} {run}{f': {said}' if said else ''}"
    yield Move(label, Kind.FAULT, after, wrong)
    if world.may("late"):
        twice = after.spend("late")
        yield Move(f"{label}, sent twice", Kind.FAULT, twice._replace(late=twice.late | {command}), wrong)


def told(world: World, run: int) -> World:
    """Somebody was told that the run is cancelled: what executes now may end the handler that it is in or about to start."""
    attempts = tuple(
        sorted(a._replace(warned=True) if a.run == run and not a.is_main and not a.cancelled else a for a in world.attempts)
    )
    return world.run(run, cancelled=True)._replace(attempts=attempts)
