"""Events from outside: delivered once or twice, published by whoever delivered them or, if he dies, by the sweeper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from simulation import requests
from simulation.explorer import Kind, Move
from simulation.redis_in_python import Command
from simulation.requests import DATA, EVENT, KEYS, NOISE, WAITING
from simulation.rules import delivered
from simulation.world import World

if TYPE_CHECKING:
    from simulation.environment import Environment

_DATA = {"event": DATA, "noise": NOISE}
#: Which argument of DELIVER the event's id is.
_ID = 4


def moves(env: Environment, world: World) -> Iterator[Move[World]]:
    for fault, data in _DATA.items():
        if world.may(fault):
            (command,) = requests.deliver(EVENT, f"{fault}{sum(world.budget)}", data=data)
            yield from arrives(env, world.spend(fault), command)
    for run in range(len(world.runs)) if world.may("child") else ():
        (command,) = requests.deliver("", f"child{sum(world.budget)}", run, "0", b"")
        yield from arrives(env, world.spend("child"), command)
    if world.may("broadcast"):
        for member in env.redis.data(world.redis).get(WAITING, {}):
            _, name, wait = member.split(" ")
            run = next(run for run in range(len(world.runs)) if requests.field(run) == name)
            (command,) = requests.deliver(EVENT, f"broadcast{sum(world.budget)}", run, wait)
            sent = world.spend("broadcast")
            yield Move(f"a broadcast finds wait {wait} of {run}", Kind.FAULT, sent._replace(late=sent.late | {command}))


def arrives(env: Environment, world: World, command: Command) -> Iterator[Move[World]]:
    """DELIVER reaches Redis; what it made due is published, or he who sent it is gone."""
    id = requests.arguments(command)[_ID]
    after, reply, wrong = env.apply(world, command)
    wrong = wrong or tuple(delivered(env.redis.data(world.redis), env.redis.data(after.redis), command, reply))
    if wrong:
        yield Move(f"DELIVER {id}", Kind.FAULT, after, wrong)
        return
    if reply[0] == 1:
        after = after._replace(accepted=after.accepted | {id})
    yield Move(f"DELIVER {id}", Kind.FAULT, after)
    if world.may("late"):
        twice = after.spend("late")
        yield Move(f"DELIVER {id}, sent twice", Kind.FAULT, twice._replace(late=twice.late | {command}))
    if reply[2:]:
        yield Move(f"DELIVER {id} and publish", Kind.FAULT, _published(env, after, reply[2:]))


def _published(env: Environment, world: World, due: tuple[str, ...]) -> World:
    for run in range(len(world.runs)):
        if requests.field(run) in due:
            world, reply, _ = env.apply(world, requests.take(run)[0])
            message = env.redis.data(world.redis)[KEYS.messages][requests.field(run)]
            if len(reply) > 1:
                world = world.send(run, int(message.split("/")[1]), "ticket")
    return world
