"""Live progress of an act, with a line for the person who watches to try."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from celery_steps.demo.ledger import KINDS, Ledger
from celery_steps.demo.report import interruptions
from celery_steps.demo.workers import Kill

_DOING = dict(zip(KINDS, ("load", "charge", "reserve", "ship"), strict=True))


class Screen:
    """A bar, counters, what has been killed, and a `kill -9` line that is always true."""

    def __init__(self, console: Console, title: str, orders: int) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[counts]}"), TimeElapsedColumn()
        )  # fmt: skip
        self._bar = self._progress.add_task(title, total=orders, counts="starting workers")
        self._invitation = Text(style="dim")
        self._offered = False
        self._live = Live(Group(self._progress, self._invitation), console=console, refresh_per_second=5)
        self._unresolved: list[Kill] = []
        self._title = title

    def __enter__(self) -> Screen:
        if not self._console.is_terminal:
            self._console.print(self._title)
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def show(self, shipped: int, kills: Sequence[Kill], new: Sequence[Kill], ledger: Ledger, yours: int | None) -> None:
        """Bring the screen up to date.

        `new` are the kills since the last time: each is told once its orders are through. `yours` is the
        process to try a kill on.
        """
        counts = f"{shipped} shipped, {len(kills)} kills, {ledger.doubles('charges')} double charges"
        self._progress.update(self._bar, completed=shipped, counts=counts)
        self._invitation.plain = f"Try it yourself, in another terminal:  kill -9 {yours}" if yours else ""
        if yours and not self._offered and not self._console.is_terminal:
            self._console.print(self._invitation.plain)
            self._offered = True
        self._unresolved += new
        for kill in list(self._unresolved):
            hit = interruptions(kill, ledger)
            through = [last for last, _ in hit if ledger.shipped_since(last.order_id, kill.at)]
            if time.time() > kill.at + 10 or len(through) == len(kill.pids):
                self._unresolved.remove(kill)
                self._tell(kill, ledger)

    def show_the_end(self, ledger: Ledger) -> None:
        """Take the invitation away, and say what the last kills did."""
        self._invitation.plain = ""
        for kill in self._unresolved:
            self._tell(kill, ledger)

    def _tell(self, kill: Kill, ledger: Ledger) -> None:
        hit = interruptions(kill, ledger)
        who = "[bold yellow]You killed[/]" if kill.by_person else "Killed"
        whom = "a whole worker with" if kill.whole_worker else "pool process"
        pids = " and ".join(map(str, kill.pids))
        self._console.print(f"  {who} {whom} {pids}" + ("" if hit else ": no order was under way"))
        for last, following in hit:
            charges = ledger.charges_of(last.order_id)
            self._console.print(
                f"    order {last.order_id}, at {_DOING[last.kind]}: taken up {following.at - kill.at:.1f} s later "
                f"by {following.process} at {_DOING[following.kind]}; "
                + ("charged once" if charges == 1 else f"[bold red]charged {charges} times[/]")
            )
