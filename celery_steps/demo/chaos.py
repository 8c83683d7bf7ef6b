"""When and whom to kill: drawn from a seed before the first act, so that both acts get the same."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery_steps.demo.workers import Kill, Worker


@dataclass(frozen=True)
class Blow:
    """A kill that is to come: `delay` seconds after so many orders have been shipped.

    `victim` from 0 to 1 picks among the processes that are alive then.
    """

    shipped: int
    delay: float
    whole_worker: bool
    victim: float


def plan(orders: int, kills: int, seed: int) -> list[Blow]:
    """Spread `kills` over the first nine tenths of the orders; every third is for a whole worker."""
    draw = random.Random(seed)
    return [
        Blow(
            shipped=int((number + draw.random()) / kills * orders * 0.9),
            delay=draw.uniform(0.1, 0.4),  # any moment within an order
            whole_worker=number % 3 == 2,
            victim=draw.random(),
        )
        for number in range(kills)
    ]


class Chaos:
    """Carries out a plan."""

    def __init__(self, blows: Sequence[Blow], workers: Sequence[Worker]) -> None:
        self._blows = list(blows)
        self._workers = workers
        self._due: float | None = None

    @property
    def over(self) -> bool:
        return not self._blows

    def strike(self, shipped: int, spare: int | None) -> Kill | None:
        """Kill whoever the plan says, if it is time; single blows leave the process `spare` to the person who watches."""
        if not self._blows or shipped < self._blows[0].shipped:
            return None
        if self._due is None:
            self._due = time.monotonic() + self._blows[0].delay
        if time.monotonic() < self._due:
            return None
        kill = self._kill(self._blows[0], spare)
        if kill is not None:  # else everybody is just being restarted
            del self._blows[0]
            self._due = None
        return kill

    def _kill(self, blow: Blow, spare: int | None) -> Kill | None:
        if blow.whole_worker:
            ready = [worker for worker in self._workers if worker.pool()]
            return ready[int(blow.victim * len(ready))].kill() if ready else None
        victims = [(worker, pid) for worker in self._workers for pid in worker.pool() if pid != spare]
        if not victims:
            return None
        worker, pid = victims[int(blow.victim * len(victims))]
        return worker.kill_process(pid)
