"""An order's run with known times, and others around it: what the pictures in docs/images show."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from runs.journals import START, Written, moment

from celery_steps import Runs
from celery_steps.codec import PLAIN
from celery_steps.engine import entries as fmt
from celery_steps.engine.history import History
from celery_steps.past import Line, Page, Progress, Record, Run, Stats, Waiting, Worker, attempt_of, record_of, waiting_of
from celery_steps.store.keys import FINAL, OPEN
from celery_steps.timeline import Timeline, timeline_of

MINUTE, HOUR = 60_000, 3_600_000
#: When the pictures are taken.
NOW = 26 * HOUR + 4 * MINUTE
ID = "0b8e2a61-7c35-4f0e-9d0e-3d1c5a7f4e42"


class Story(Written):
    """A journal whose steps have inputs and results to look at."""

    def done(self, key: str, began: int, ended: int, result: Any, *, input: Any = None, **more: Any) -> Story:
        return self._outcome(key, began, ended, True, result, input, **more)

    def failed(self, key: str, began: int, ended: int, error: Exception, *, input: Any = None, **more: Any) -> Story:
        return self._outcome(key, began, ended, False, error, input, **more)

    def _outcome(
        self, key: str, began: int, ended: int, ok: bool, outcome: Any, input: Any, sequence: int = 1, verb: str = "run"
    ) -> Story:
        where: dict[str, Any] = {"namespace": self.namespace, "key": key, "sequence": sequence}
        value = self.codec.encode(outcome, hint=PLAIN, **where) if ok else self.codec.encode_failure(outcome, **where)
        asked = None if input is None else self.codec.encode(input, hint=PLAIN, **where)
        entry = fmt.pack_step((key, sequence), None, ok, value, asked, began - self._attempt, ended - began, verb)
        self.add("step", entry)
        return self

    def seen(self, status: str, changed: int, **known: Any) -> tuple[Run, list[Record], Timeline]:
        """What `Runs` says of it."""
        history = History.of(self.entries)
        past = history.attempts_of(str(self.run))
        run = Run(
            self.namespace, self.run.id, self.run.task, status, len(past), 0, 0,
            moment(0), moment(changed), None, None, None, None,
            waits=tuple(waiting_of(wait) for wait in history.waits_of(str(self.run))),
            history=tuple(attempt_of(one, status == "running" and one is past[-1], None) for one in past),
        )  # fmt: skip
        run = replace(run, **known)
        records = [record_of(self.namespace, step, self.codec) for step in [*history.steps, *history.waits]]
        return run, records, timeline_of(run, history, START + NOW, self.codec)


def refused() -> Exception:
    """What a step raised, in code of a shop's own."""
    names: dict[str, Any] = {}
    source = "def book(label):\n    raise ConnectionError('gateway did not answer within 5 s')"
    exec(compile("\n" * 30 + source, "/srv/shop/couriers.py", "exec"), names)
    try:
        names["book"]("JD0146")
    except ConnectionError as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError


def order() -> tuple[Run, list[Record], Timeline, list[Line]]:
    """Charged, reserved and screened side by side, a crash, a night's sleep, an approval, and now it is being packed."""
    story = Story("shop.fulfil", ID, "order-4217")
    story.attempt(0, token="celery@worker-1/4188/1/1")
    story.done("load order", 40, 210, {"order": 4217, "customer": "ann@example.com", "items": [
        {"sku": "LAMP-2", "count": 1, "cents": 8900}, {"sku": "DESK-OAK", "count": 1, "cents": 64_900}]}, input=4217)  # fmt: skip
    story.done("screen for fraud", 230, 1340, {"score": 0.07, "verdict": "clear"}, input={"customer": "ann@example.com"})
    story.done("reserve LAMP-2", 235, 720, {"shelf": "B-14", "until": "2023-11-17"}, input="LAMP-2")
    story.done("reserve DESK-OAK", 240, 1010, {"shelf": "hall 3", "until": "2023-11-17"}, input="DESK-OAK")
    story.add("start", fmt.pack_start(("charge card", 1)))
    story.attempt(3100, token="celery@worker-2/917/1/1")
    story.done("charge card", 3140, 4020, {"charge": "ch_8Qe1", "cents": 73_800}, input={"card": "card_19", "cents": 73_800})
    story.wait("cool-off", began=4050, deadline=8 * HOUR + 4050)
    story.suspend()
    story.attempt(8 * HOUR + 4300, token="celery@worker-1/4188/1/1")
    story.done("cool-off", 8 * HOUR + 4310, 8 * HOUR + 4310, None, verb="sleep")
    story.done("ask for approval", 8 * HOUR + 4330, 8 * HOUR + 4910, "mail 5521", input="sales@example.com")
    story.wait("order.approved", "wait_for_event", "order.approved", 32 * HOUR, began=8 * HOUR + 4930)
    story.suspend()
    story.attempt(26 * HOUR, token="celery@worker-2/917/1/1")
    story.done("order.approved", 26 * HOUR + 10, 26 * HOUR + 10, {"by": "maria", "note": "known customer"}, verb="wait_for_event")
    story.done("print label", 26 * HOUR + 30, 26 * HOUR + 700, {"label": "JD0146", "carrier": "DHL"}, input={"order": 4217})
    story.failed("book courier", 26 * HOUR + 720, 26 * HOUR + 1900, refused(), input={"label": "JD0146"})
    story.done("book pick-up", 26 * HOUR + 1930, 26 * HOUR + 2600, {"pick-up": "tomorrow, 9 to 12"}, input={"label": "JD0146"})
    story.add("start", fmt.pack_start(("pack", 1)))
    progress = Progress(1, 2, "desk is packed", {}, moment(NOW - 1500))
    worker = Worker("celery@worker-2", 917)
    run, records, timeline = story.seen(
        "running", 26 * HOUR, owner=worker, lease_until=moment(NOW + 25_000), progress=progress, in_flight=("pack", 1)
    )
    # Packing is for people: here the picture is taken after three seconds.
    timeline = replace(timeline, now=moment(26 * HOUR + 4600))
    said = [
        (220, "info", "", 0, "two items, 738.00 in all", {"items": 2}),
        (1100, "debug", "screen for fraud", 1, "asked the screening service", {"ms": 846}),
        (3900, "info", "charge card", 1, "charged", {"charge": "ch_8Qe1"}),
        (26 * HOUR + 1910, "warning", "", 0, "no courier today: pick-up instead", {}),
    ]
    lines = [
        Line(f"{START + at}-1", moment(at), level, "order-4217", ID, "shop.fulfil", 1, key, sequence, message, data)
        for at, level, key, sequence, message, data in said
    ]
    return run, records, timeline, lines


def others() -> list[Run]:
    """Runs of a shop on a busy day."""

    def one(namespace: str, task: str, status: str, ago: int, **known: Any) -> Run:
        changed = moment(NOW - ago)
        created = changed - timedelta(minutes=3)
        id = str(uuid5(NAMESPACE_URL, namespace))
        return replace(Run(namespace, id, task, status, 1, 0, 0, created, changed, None, None, None, None), **known)

    hour = timedelta(hours=1)
    now = moment(NOW)
    return [
        one("order-4223", "shop.fulfil", "suspended", 9_000, events=("order.approved",), wake_at=now + 21 * hour),
        one("import-2023-11", "shop.import_rows", "running", 14_000, progress=Progress(6200, 10_000, "rows", {}, now)),
        one("order-4222", "shop.fulfil", "retrying", 31_000, wake_at=now + hour / 60),
        one("order-4219", "shop.fulfil", "succeeded", 3 * MINUTE),
        one("refund-881", "shop.refund", "in_doubt", 7 * MINUTE, waits=(Waiting("pay back", 1, "run", "", now, None),)),
        one("order-4214", "shop.fulfil", "failed", 12 * MINUTE, error=ValueError("card ending 4242 was declined")),
        one("newsletter-46", "shop.newsletter", "suspended", 40 * MINUTE, wake_at=now + 6 * hour),
        one("order-4211", "shop.fulfil", "cancelled", HOUR),
        one("stock-take", "shop.stock_take", "paused", 5 * HOUR),
    ]


class ToldRuns(Runs):
    """`Runs` of which everything is known beforehand."""

    def __init__(self) -> None:
        self._run, self._records, self._timeline, self._lines = order()
        listed = [*others(), replace(self._run, changed_at=moment(NOW - 4000))]
        self._list = sorted(listed, key=lambda run: run.changed_at, reverse=True)

    def list(self, **asked: Any) -> Page:
        name = asked.get("namespace")
        return Page(tuple(run for run in self._list if name is None or name in (run.id, run.namespace)), None)

    def get(self, name: str) -> Run:
        return self._run

    def records(self, name: str, attempts: bool = False) -> Any:
        return self._records

    def timeline(self, name: str) -> Timeline:
        return self._timeline

    def logs(self, name: str, **asked: Any) -> Any:
        return self._lines

    def version(self, name: str | None = None) -> str:
        return "told"

    def stats(self) -> Stats:
        counts = dict.fromkeys((*OPEN, *FINAL), 0) | {"running": 12, "suspended": 1840, "retrying": 3, "paused": 1, "in_doubt": 1}
        return Stats(counts | {"succeeded": 48_210, "failed": 27, "cancelled": 14}, 1857, 1857, 0, 0.0, None, "7.2")


def now() -> datetime:
    return moment(NOW)
