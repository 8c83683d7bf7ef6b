"""What came of it: the two columns, and what to look at next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

from celery_steps.demo import shop
from celery_steps.demo.ledger import Call, Ledger
from celery_steps.demo.workers import Kill


@dataclass(frozen=True)
class Figures:
    """One column. Times in seconds; the resume times are None where no kill hit an order."""

    orders: int
    kills: int
    whole_workers_killed: int
    orders_interrupted: int
    double_charges: int
    double_reservations: int
    double_shipments: int
    lost_orders: int
    calls: int
    repeated_calls: int
    resume_median: float | None
    resume_max: float | None
    seconds: float


def interruptions(kill: Kill, ledger: Ledger) -> list[tuple[Call, Call]]:
    """For each order that a kill interrupted: the last call of the killed process, and the next one for that order."""
    found = []
    for pid in kill.pids:
        last = ledger.last_call_of(pid, kill.at)
        following = last and ledger.next_call_for(last.order_id, kill.at, pid)
        if last and following:
            found.append((last, following))
    return found


def measure(ledger: Ledger, kills: Sequence[Kill], orders: int, lost: int, seconds: float) -> Figures:
    """The figures of an act, all counted in the payment service's ledger."""
    hit = [following.at - kill.at for kill in kills for _, following in interruptions(kill, ledger)]
    return Figures(
        orders=orders,
        kills=len(kills),
        whole_workers_killed=sum(kill.whole_worker for kill in kills),
        orders_interrupted=len(hit),
        double_charges=ledger.doubles("charges"),
        double_reservations=ledger.doubles("reservations"),
        double_shipments=ledger.doubles("shipments"),
        lost_orders=lost,
        calls=ledger.calls(),
        repeated_calls=ledger.repeated(),
        resume_median=round(median(hit), 2) if hit else None,
        resume_max=round(max(hit), 2) if hit else None,
        seconds=round(seconds, 1),
    )


def table(plain: Figures, durable: Figures) -> Table:
    """The two columns."""
    result = Table(title="The same orders, the same kills")
    result.add_column("")
    result.add_column("plain task, acks_late", justify="right")
    result.add_column("DurableTask", justify="right")
    for (name, left), (_, right) in zip(_rows(plain), _rows(durable), strict=True):
        result.add_row(name, left, right)
    return result


def _rows(figures: Figures) -> list[tuple[str, str]]:
    return [
        ("orders", str(figures.orders)),
        ("kills (of whole workers)", f"{figures.kills} ({figures.whole_workers_killed})"),
        ("orders interrupted", str(figures.orders_interrupted)),
        ("double charges", _better_none(figures.double_charges)),
        ("double reservations", _better_none(figures.double_reservations)),
        ("double shipments", _better_none(figures.double_shipments)),
        ("lost orders", _better_none(figures.lost_orders)),
        ("calls to the service", str(figures.calls)),
        ("answered by idempotency key", str(figures.repeated_calls)),
        ("time to resume: median", _seconds(figures.resume_median)),
        ("time to resume: longest", _seconds(figures.resume_max)),
        ("duration", _seconds(figures.seconds)),
    ]


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _better_none(count: int) -> str:
    return f"[bold red]{count}[/]" if count else "[green]0[/]"


def closing_words(durable: Figures) -> str:
    """What the table does not say, and where to go from here."""
    repeated = durable.repeated_calls
    times = "once" if repeated == 1 else f"{repeated} times"
    happened = (
        f"That happened {times} here, and the service answered from the key."
        if repeated
        else "No kill of this run fell into it; another --seed may show it."
    )
    return f"""
[bold]Said honestly.[/] Between a step's effect and its record lies a window: a kill in it repeats the call. What closes
it here is the step's idempotency key, which the service honours. {happened}
A service that ignores keys would have done it twice. The plain task sends no keys; with keys of its own it would not
charge twice either, but would still repeat every call from the start. After the loss of a whole worker its orders come
back when the visibility timeout is over: 5 s here, an hour unless one sets it.

[bold]What to look at next[/]
  the two tasks, side by side       {Path(shop.__file__)}
  twenty lines to copy              examples/quickstart.py in the repository
  what is promised, and what not    docs/guarantees.md in the repository
"""
