"""The bounds in which the simulation walks through every state."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from simulation.checks import Checks
from simulation.environment import Environment
from simulation.explorer import Exploration, Move, explore
from simulation.faults import Faults
from simulation.world import Scenario, World, bounds

JOURNAL = ("journal",)

#: One run.
ONE = (
    bounds("ss", crash=1),
    bounds("ss", crash=1, dup=1),
    bounds("ss", stall=1, dup=1),
    bounds("szs", stall=1, dup=1),
    bounds("szs", crash=1, loss=1),
    bounds("ys", crash=1, loss=1),
    bounds("sYs", stall=1, dup=1),
    bounds("mys", dup=1),
    bounds("mys", crash=1),
    bounds("sx", crash=1, dup=1),
    bounds("sx", stall=1, dup=1),
    bounds("sf", stall=1, dup=1),
    bounds("f", stall=1, late=1),
    bounds("si", crash=1, dup=1),
    bounds("n", crash=2),
    bounds("sk", max_crashes=2),
    bounds("sqs", reject=1, crash=1),
    bounds("ss", shutdown=2),
    bounds("ss", unstored=1, loss=1),
    bounds("ss", unsent=1, crash=1),
    bounds("zs", started=True, crash=1, dup=1, workers=1),
    bounds("zf", started=True, stall=1),
    bounds("szs", started=True, stall=1, dup=1),
)
#: What is asked and decided from outside.
ASKED = (
    bounds("ss", cancel=1, stall=1),
    bounds("zs", cancel=1, crash=1, workers=1),
    bounds("ys", cancel=1, dup=1),
    bounds("ss", cancel=1, late=2),
    bounds("ss", revoke=1),
    bounds("y", revoke=1),
    bounds("ss", kill=1, dup=1),
    bounds("s", kill=2),
    bounds("zs", limit=1),
    bounds("s", limit=1, dup=1),
    bounds("ss", limit=1, cancel=1),
    bounds("s", limit=1, late=1, workers=1),
)
#: Requests that are lost, doubled and late; what Redis forgets.
NETWORK = (
    bounds("ss", late=2),
    bounds("szs", late=1),
    bounds("sys", late=1),
    bounds("ss", late=1, stall=1),
    bounds("s", late=1, crash=1),
    bounds("s", late=1, shutdown=1),
    bounds("szs", clock=1),
    bounds("s", clock=1, crash=1, workers=1),
    bounds("ss", failover=1),
    bounds("ss", failover=1, dup=1),
    bounds("ss", wipe=1, crash=1, wiped=JOURNAL),
    bounds("z", wipe=1, crash=1, wiped=JOURNAL, workers=1),
    bounds("ss", wipe=1, dup=1, wiped=("run",)),
    bounds("ss", wipe=1),
)
#: Runs that share a namespace.
SHARED = (
    bounds("s+s", dup=1),
    bounds("s+s", crash=1, workers=1),
    bounds("s+s", cancel=1),
    bounds("s+s", late=1),
    bounds("s+s", kill=1, workers=1),
    bounds("s+s", shutdown=1, workers=1),
    bounds("s+s", revoke=1, workers=1),
    bounds("s+s", wipe=1, wiped=JOURNAL, workers=1),
    bounds("s+sk", max_crashes=2, workers=1),
    bounds("z+s"),
    bounds("z+z+s", workers=1),
    bounds("s+b", stall=1),
    bounds("s+b", cancel=1),
    bounds("s+b", late=1),
    bounds("s+b", crash=1, workers=1),
    bounds("b+b+b", stall=1),
)
#: Waits for events, which come at any time.
WAITING = (
    bounds("w", event=1, crash=1),
    bounds("w", event=1, noise=1),
    bounds("ww", event=2),
    bounds("wz", event=1, noise=1),
    bounds("w", event=1, broadcast=1),
    bounds("w", event=1, cancel=1),
    bounds("w", event=1, stall=1),
    bounds("w", event=1, dup=1),
    bounds("w", event=1, loss=1),
    bounds("w", event=1, late=2, workers=1),
    bounds("w", event=1, kill=1, workers=1),
    bounds("w", event=1, shutdown=1, workers=1),
    bounds("w", event=1, failover=1, workers=1),
    bounds("w", event=1, wipe=1, wiped=JOURNAL),
    bounds("W", event=1, crash=1, workers=1),
    bounds("W", event=1, clock=1, workers=1),
    bounds("W", event=1, noise=1),
    bounds("yw", event=1, broadcast=1),
    bounds("w", event=1, child=1),
    bounds("w", event=1, started=True),
    bounds("w+w", event=2, workers=1),
    bounds("w+w", event=1, broadcast=1, workers=1),
    bounds("W+w", event=1, workers=1),
    bounds("w+s", event=1, workers=1),
    bounds("sw+b", event=1, workers=1),
)
#: Steps at most once and their doubts, undos, pauses, handovers, what is told, and runs that begin again.
GOES_WRONG = (
    bounds("os", crash=1),
    bounds("o", crash=1, stall=1, workers=1),
    bounds("o", crash=2, resolve=2, workers=1),
    bounds("o", crash=1, resolve=1, late=1, workers=1),
    bounds("o", crash=1, resolve=1, cancel=1, workers=1),
    bounds("o", crash=1, resolve=1, pause=1, workers=1),
    bounds("o", dup=1, stall=1),
    bounds("o", kill=1, resolve=1, workers=1),
    bounds("o", stall=1, cancel=1),
    bounds("so+b", crash=1, workers=1),
    bounds("ux", crash=1, dup=1, workers=1),
    bounds("ux", crash=2, workers=1),
    bounds("uux", crash=1, workers=1),
    bounds("uf", stall=1),
    bounds("uf", late=1, workers=1),
    bounds("ux", limit=1, workers=1),
    bounds("us", revoke=1, workers=1),
    bounds("us", cancel=1, crash=1, workers=1),
    bounds("us", cancel=1, stall=1, workers=1),
    bounds("usz", cancel=1, late=1, workers=1),
    bounds("Ux", crash=1, workers=1),
    bounds("Ux", pause=1, cancel=1),
    bounds("Vx", crash=1, workers=1),
    bounds("uVx", reopen=1, workers=1),
    bounds("ux+s", workers=1),
    bounds("ss", pause=1, unpause=1),
    bounds("s", pause=1, unpause=1, late=1),
    bounds("s", pause=1, unpause=1, crash=1, workers=1),
    bounds("s", pause=2, unpause=2, workers=1),
    bounds("zs", pause=1, unpause=1),
    bounds("ys", pause=1, unpause=1),
    bounds("w", event=1, pause=1, unpause=1),
    bounds("ss", pause=1, cancel=1),
    bounds("ss", pause=1, unpause=1, stall=1, workers=1),
    bounds("s+s", pause=1, unpause=1, workers=1),
    bounds("ss", handover=1, crash=1, workers=1),
    bounds("ss", handover=1, pause=1, unpause=1, workers=1),
    bounds("ss", handover=1, stall=1),
    bounds("s", handover=1, late=1),
    bounds("os", handover=1, resolve=1),
    bounds("s+s", handover=1, workers=1),
    bounds("ts", crash=1),
    bounds("tst", stall=1),
    bounds("ts", late=1, stall=1, workers=1),
    bounds("tts", shutdown=1, workers=1),
    bounds("f", reopen=1, crash=1, workers=1),
    bounds("f", reopen=1, dup=1),
    bounds("f", reopen=1, late=1),
    bounds("f", reopen=2, workers=1),
    bounds("yf", reopen=1, dup=1, workers=1),
    bounds("s", cancel=1, reopen=1, late=1, workers=1),
    bounds("uf", reopen=1, crash=1, workers=1),
    bounds("x+s", reopen=1, workers=1),
)
SMALL = ONE + ASKED + NETWORK + SHARED + WAITING + GOES_WRONG

#: Minutes each: for STEPS_DEEP=1.
DEEP = (
    bounds("szs", crash=1, loss=1, dup=1),
    bounds("sys", crash=1, dup=1),
    bounds("mys", crash=1, dup=1),
    bounds("sqs", reject=2, crash=1),
    bounds("szs", cancel=1, crash=1),
    bounds("sys", revoke=1, loss=1),
    bounds("szs", revoke=1, dup=1),
    bounds("ss", kill=2),
    bounds("ss", kill=1, crash=1),
    bounds("ss", limit=1, crash=1),
    bounds("szs", limit=1, dup=1),
    bounds("ss", late=1, crash=1),
    bounds("szs", late=1, shutdown=1),
    bounds("ss", clock=1, crash=1),
    bounds("szs", started=True, crash=1, dup=1),
    bounds("s+s", crash=1),
    bounds("s+s", stall=1),
    bounds("s+s", kill=1),
    bounds("s+s", cancel=1, stall=1),
    bounds("sz+s", dup=1),
    bounds("s+sk", max_crashes=2),
    bounds("s+s+s"),
    bounds("s+b", crash=1),
    bounds("s+b", cancel=1, stall=1),
    bounds("W", event=1, crash=1, dup=1),
    bounds("W", event=1, late=1, crash=1),
    bounds("w", broadcast=1, late=1, noise=1),
    bounds("ww", event=2, stall=1),
    bounds("w+w", event=1, crash=1),
    bounds("w+s", event=1, cancel=1),
    bounds("os", crash=2, resolve=2),
    bounds("o", crash=1, resolve=1, pause=1, unpause=1, workers=1),
    bounds("os", crash=1, resolve=1, late=1),
    bounds("o", stall=1, crash=1, resolve=1),
    bounds("uux", crash=2),
    bounds("ux", crash=1, stall=1),
    bounds("uUx", crash=1, dup=1),
    bounds("us", cancel=1, crash=1, stall=1, workers=1),
    bounds("ss", pause=1, unpause=1, crash=1, late=1),
    bounds("ss", pause=2, unpause=2, stall=1),
    bounds("zs", pause=1, unpause=1, crash=1, dup=1),
    bounds("ss", handover=2, crash=1),
    bounds("tst", stall=1, crash=1),
    bounds("f", reopen=2, crash=1),
    bounds("uf", reopen=1, crash=1, dup=1),
    bounds("f", reopen=1, crash=1, late=1, workers=1),
    bounds("ux+s", reopen=1, crash=1, workers=1),
)


class Simulation:
    """One scenario over the scripts, or over mutants of them."""

    def __init__(self, scenario: Scenario, scripts: dict[str, str] | None = None) -> None:
        self.environment = Environment(scenario, scripts)
        self.attempts = Faults(self.environment)
        self.checks = Checks(self.environment)

    def moves(self, world: World) -> Iterator[Move[World]]:
        yield from self.environment.moves(world)
        yield from self.attempts.moves(world)

    def follow(self, *labels: str) -> World:
        """The world after these moves: each the first whose label contains the text."""
        world = self.environment.start()
        for text in labels:
            offered = list(self.moves(world))
            found = next((move for move in offered if text in move.label), None)
            assert found is not None, f"nothing that happens next is {text!r}: {[move.label for move in offered]}"
            world = found.state
        return world

    def explore(self, start: World | None = None, *, limit: int = 1_000_000, stop: bool = False) -> Exploration[World]:
        """Walk from `start`, from the beginning if not given."""
        wrong: Callable[[World], Iterator[str]] = self.checks.wrong
        return explore(start or self.environment.start(), self.moves, wrong, self.checks.at_rest, limit=limit, stop=stop)
