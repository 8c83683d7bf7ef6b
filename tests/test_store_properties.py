"""The store against a plain model of one namespace: whatever is asked, in whatever order, both say the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from celery_steps.settings import Settings
from celery_steps.store.binding import Binding
from celery_steps.store.keys import FINAL, OPEN, RunId
from celery_steps.store.replies import Append, Await, Event
from celery_steps.store.store import Store
from simulation import requests
from simulation.redis_in_python import EXPIRING, Redis, ScriptError

TTL = 30_000
APP = "app"
RUNS = 3
_WAITING = ("suspended", "retrying")
#: Waits that a run may have, by event.
AWAITS = (Await("e", "k#1", b"1"), Await("e", "k#11", b"2"), Await("pay ment|ed:%é", "l#1", b"3"))
_ended = st.sets(st.sampled_from(AWAITS))
EVENTS = ("e", "pay ment|ed:%é", "other")


class InProcess:
    """Stands where the client is: the small Redis of the simulation, whose time stands still until it is moved."""

    def __init__(self) -> None:
        self.redis = Redis(requests.scripts(), now_us=0)
        self.state = 0
        self.now = 1_000_000
        self.wait(0)

    def wait(self, ms: int) -> None:
        self.now += ms
        self.redis.at(self.now * 1000)

    def script(self, name: str) -> Any:
        return lambda keys, *arguments: ["EVALSHA", name, str(len(keys)), *keys, *arguments]

    def exchange(self, *commands: list[str | bytes]) -> list[Any]:
        return [self.call(*command) for command in commands]

    def run(self, name: str, keys: Any, *arguments: str | bytes) -> Any:
        return self.call(*self.script(name)(keys, *arguments))

    def call(self, *command: str | bytes) -> Any:
        texts = tuple(part.decode("latin-1") if isinstance(part, bytes) else part for part in command)
        self.state, reply = self.redis.call(self.state, texts)
        assert not isinstance(reply, ScriptError), reply
        return _bytes(reply)

    def data(self) -> dict[str, Any]:
        return self.redis.data(self.state)


def _bytes(reply: Any) -> Any:
    if isinstance(reply, tuple):
        return [_bytes(part) for part in reply]
    return reply.encode("latin-1") if isinstance(reply, str) else reply


@dataclass
class Run:
    """What the model knows of a run."""

    status: str = "running"
    wake: int = 0
    crashes: int = 0
    retries: int = 0
    pushes: int = 0
    message: bytes = b""
    outcome: bool = False
    settler: str = ""
    settling: int = 0
    settled: bool = False


@dataclass
class Model:
    """One namespace, as PROTOCOL has it, without a journal's contents. Times in ms."""

    now: int
    owner: str = ""
    owner_run: int = -1
    lease: int = 0
    tip: tuple[str, int] = ("", 0)  # whose entry is the last, and the how-manieth of his
    turn: int = -1
    turn_until: int = 0
    held: list[int] = field(default_factory=list)
    runs: dict[int, Run] = field(default_factory=dict)
    tickets: dict[int, int] = field(default_factory=dict)
    inbox: list[Event] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)  # how many waits an event reached, by its id
    waits: set[tuple[int, Await]] = field(default_factory=set)

    def claim(self, token: str, number: int, retries: int) -> str:
        run = self.runs.get(number)
        if run is not None and run.outcome:
            if run.settled:
                return "SETTLED"
            if run.settler != token and self.now < run.settling:
                return "SETTLING"
            run.settler, run.settling = token, self.now + TTL
            self.tickets[number] = self.now + TTL
            return "FINISHED"
        if run is not None and retries < run.retries:
            return "STALE_MESSAGE"
        if run is not None and run.status in _WAITING and self.now < run.wake:
            return "EARLY"
        live = self.owner != "" and self.now < self.lease
        waits = self.turn not in (-1, number) and self.now < self.turn_until
        if live and self.owner_run == number:
            return "HELD"
        if live or waits:
            self._hold(number, self.lease if live else self.turn_until, retries)
            return "HELD"
        self._grant(token, number, retries)
        return "OK"

    def _hold(self, number: int, free: int, retries: int) -> None:
        self.runs.setdefault(number, Run(retries=retries, message=b"%d" % retries)).status = "held"
        if number not in self.held:
            self.held.append(number)
        self.tickets.pop(number, None)
        self.tickets[self.held[0]] = free
        self.runs[self.held[0]].pushes = 0

    def _grant(self, token: str, number: int, retries: int) -> None:
        if self.owner:
            self.runs[self.owner_run].crashes += 1
        run = self.runs.setdefault(number, Run(retries=retries, message=b"%d" % retries))
        self.owner, self.owner_run, self.lease, self.tip = token, number, self.now + TTL, (token, 0)
        if number in self.held:
            self.held.remove(number)
        if self.turn == number:
            self.turn = -1
        if self.held:
            self.tickets[self.held[0]] = self.now + TTL
        if retries > run.retries:
            run.retries, run.message = retries, b"%d" % retries
        run.status, run.pushes = "running", 0
        self.tickets[number] = self.now + TTL

    def free(self) -> None:
        self.owner = ""
        if self.held:
            head = self.held[0]
            self.tickets[head] = self.now
            self.turn, self.turn_until = head, self.now + TTL
            self.runs[head].pushes = 0

    def owns(self, token: str, n: int) -> bool:
        return self.owner == token and self.tip == (token, n)

    def takes(self, number: int, wait: str) -> bool:
        """Whether an event may come: for one wait of one run, or ("") for whoever waits first."""
        if wait:
            return any(run == number and await_.wait == wait for run, await_ in self.waits)
        return not self.runs or not all(run.settled for run in self.runs.values())

    def wake(self, numbers: set[int]) -> set[int]:
        """Who of them is suspended is due now."""
        due = {number for number in numbers if self.runs[number].status == "suspended"}
        for number in due:
            self.runs[number].wake, self.runs[number].pushes = self.now, 0
            self.tickets[number] = self.now
        return due

    def sweep(self) -> set[int]:
        due = {number for number, at in self.tickets.items() if at <= self.now}
        for number in due:
            run = self.runs[number]
            self.tickets[number] = self.now + TTL * 2 ** min(run.pushes, 7)
            run.pushes += 1
        return due


@dataclass(eq=False)
class Attempt:
    """A delivery that was granted the namespace once; it may be long gone."""

    binding: Binding
    number: int
    retries: int
    fence: int
    uid: str
    n: int = 0
    seen: str = "0"  # how far it has read in the inbox

    @property
    def token(self) -> str:
        return self.binding.token

    def tips(self) -> tuple[str, str, str]:
        """Tip before, tip after and id of the next entry."""
        id = f"{self.fence}-{self.n + 1}"
        return f"{self.fence}-{self.n} {self.uid}", f"{id} {self.uid}", id


class StoreMachine(RuleBasedStateMachine):
    """Attempts of three runs in one namespace, those that were replaced among them."""

    attempts: Bundle[Attempt] = Bundle("attempts")
    numbers = st.integers(0, RUNS - 1)

    def __init__(self) -> None:
        super().__init__()
        self.redis = InProcess()
        options = Settings(backend="redis://nowhere", partitions=1, lease_ttl=TTL / 1000)
        self.store = Store(options, client=self.redis)  # type: ignore[arg-type]
        self.model = Model(self.redis.now)
        self.given = 0

    def bind(self, number: int) -> Binding:
        self.given += 1
        return self.store.bind("ns", RunId("task", str(number)), f"w/{self.given}/1", APP)

    def run_of(self, attempt: Attempt) -> Run:
        return self.model.runs[attempt.number]

    # -- what is asked ----------------------------------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, TTL // 3, TTL - 1, TTL, 4 * TTL]))
    def time_passes(self, ms: int) -> None:
        self.redis.wait(ms)
        self.model.now += ms

    @rule(target=attempts, number=numbers, retries=st.integers(0, 1))
    def claim(self, number: int, retries: int) -> Any:
        binding = self.bind(number)
        asked: dict[str, Any] = {"retries": retries, "message": b"%d" % retries}
        claim, entries = binding.claim(f"{self.given:032}", b"entry", **asked)
        again, _ = binding.claim(f"{self.given:032}", b"entry", **asked)
        assert claim.verdict == self.model.claim(binding.token, number, retries)
        assert again == claim
        if claim.verdict != "OK":
            return Attempt(binding, number, retries, 0, "")
        assert entries[-1].id == f"{claim.fence}-0"
        assert claim.crashes == self.model.runs[number].crashes
        return Attempt(binding, number, retries, claim.fence, claim.uid)

    @rule(attempt=attempts, twice=st.booleans())
    def commit(self, attempt: Attempt, twice: bool) -> None:
        before, after, id = attempt.tips()
        wanted = Append.OK if self.model.tip == (attempt.token, attempt.n) else Append.STALE
        for _ in range(1 + twice):
            assert attempt.binding.commit(before, after, [(id, "step", b"v")], record=True) is wanted
        if wanted is Append.OK:
            attempt.n += 1
            self.model.tip = (attempt.token, attempt.n)
            self.run_of(attempt).crashes = 0

    def leave(
        self, attempt: Attempt, method: str, *arguments: Any, done: Append = Append.STALE, news: bool = False, **options: Any
    ) -> bool:
        """Send twice what gives the namespace back; whether it was accepted."""
        owns = self.model.owns(attempt.token, attempt.n)
        wanted = done if not owns else Append.NEWS if news else Append.OK
        before, after, id = attempt.tips()
        entry = ([(id, method, b"v")],) if method == "suspend" else (id, b"v")
        for _ in range(2):
            assert getattr(attempt.binding, method)(before, after, *entry, *arguments, **options) is wanted
        if wanted is Append.OK and owns:
            attempt.n += 1
            self.model.tip = (attempt.token, attempt.n)
        return owns and wanted is Append.OK

    @rule(
        attempt=attempts,
        delay=st.sampled_from([0, 0, 10_000, 100_000]),
        awaits=st.sets(st.sampled_from(AWAITS)),
        reads=st.booleans(),
    )
    def suspend(self, attempt: Attempt, delay: int, awaits: set[Await], reads: bool) -> None:
        unread = [event for event in self.model.inbox if _order(event.id) > _order(attempt.seen)]
        if reads:
            assert attempt.binding.inbox(attempt.seen) == unread
            attempt.seen, unread = (unread[-1].id if unread else attempt.seen), []
        options: dict[str, Any] = {"awaits": sorted(awaits), "seen": attempt.seen if awaits else ""}
        if self.leave(attempt, "suspend", delay=delay, news=bool(awaits and unread), **options):
            run = self.run_of(attempt)
            run.status, run.wake, run.pushes = "suspended", self.model.now + delay, 0
            self.model.tickets[attempt.number] = run.wake
            self.model.waits |= {(attempt.number, await_) for await_ in awaits}
            self.model.free()

    @rule(
        attempt=attempts,
        ended=_ended,
        count=st.integers(0, 2),
    )
    def receive(self, attempt: Attempt, ended: set[Await], count: int) -> None:
        before, after, id = attempt.tips()
        taken = [event.id for event in self.model.inbox[:count]]
        wanted = Append.OK if self.model.tip == (attempt.token, attempt.n) else Append.STALE
        for _ in range(2):
            reply = attempt.binding.receive(before, after, [(id, "step", b"v")], ended=sorted(ended), taken=taken)
            assert reply is wanted
        if wanted is Append.OK:
            attempt.n += 1
            self.model.tip = (attempt.token, attempt.n)
            self.run_of(attempt).crashes = 0
            self.model.inbox = self.model.inbox[count:]
            self.model.waits = {one for one in self.model.waits if one[1] not in ended}

    @rule(number=numbers, awaits=st.sets(st.sampled_from(AWAITS), min_size=1), delay=st.sampled_from([0, 100_000]))
    def a_run_comes_to_wait(self, number: int, awaits: set[Await], delay: int) -> None:
        self.suspend(self.claim(number, 0), delay, awaits, True)

    @rule(number=numbers, ended=_ended, count=st.integers(0, 2), finishes=st.booleans())
    def a_run_takes_events(self, number: int, ended: set[Await], count: int, finishes: bool) -> None:
        attempt = self.claim(number, 0)
        self.receive(attempt, ended, count)
        if finishes:
            self.finish(attempt)

    def deliver(self, event: str, id: str, number: int = -1, wait: str = "") -> None:
        """An event, twice."""
        model = self.model
        reached = {
            (run, one.wait) for run, one in model.waits if one.event == event and wait in ("", one.wait) and number in (-1, run)
        }
        accepted = id in model.heard or model.takes(number, wait)
        due = model.wake({run for run, _ in reached}) if accepted and id not in model.heard else set()
        target: dict[str, Any] = {"run": RunId("task", str(number)), "wait": wait} if wait else {}
        for again in (id in model.heard, True):
            found = self.store.deliver("ns", event, id, b"data", **target)
            assert (found is not None) is accepted
            if found is not None:
                model.heard.setdefault(id, len(reached))
                assert found.reached == model.heard[id]
                assert {int(run.id) for run in found.due} == (set() if again else due)
            if found is not None and not again:
                (last,) = self.redis.data()[self.store.keys.namespace("ns").inbox][0][-1:]
                to = f"task/{number}/0 {wait}" if wait else ""
                model.inbox.append(Event(last[0], event, b"data", to, id))

    @rule(event=st.sampled_from(EVENTS), old=st.booleans())
    def event(self, event: str, old: bool) -> None:
        self.given += not old
        self.deliver(event, f"event{self.given}")

    @rule(event=st.sampled_from(EVENTS))
    def broadcast(self, event: str) -> None:
        self.given += 1
        waiters = [waiter for page in self.store.waiting(event) for waiter in page]
        assert {(int(one.run.id), one.wait, one.match) for one in waiters} == {
            (run, one.wait, one.match) for run, one in self.model.waits if one.event == event
        }
        for waiter in waiters:
            self.deliver(event, f"event{self.given}/{waiter.run}/{waiter.wait}", int(waiter.run.id), waiter.wait)

    @rule(number=numbers, await_=st.sampled_from(AWAITS))
    def broadcast_to_a_wait_that_may_be_over(self, number: int, await_: Await) -> None:
        self.given += 1
        self.deliver(await_.event, f"event{self.given}", number, await_.wait)

    @rule(attempt=attempts, delay=st.sampled_from([0, 10_000]))
    def retry(self, attempt: Attempt, delay: int) -> None:
        retries = attempt.retries + 1
        if self.leave(attempt, "retry", delay, retries, b"%d" % retries):
            run = self.run_of(attempt)
            run.status, run.wake, run.pushes, run.crashes = "retrying", self.model.now + delay, 0, 0
            if retries > run.retries:
                run.retries, run.message = retries, b"%d" % retries
            self.model.tickets[attempt.number] = run.wake
            self.model.free()

    @rule(attempt=attempts)
    def finish(self, attempt: Attempt) -> None:
        run = self.model.runs.get(attempt.number)
        done = Append.STALE
        if run is not None and run.outcome:
            done = Append.OK if run.settler == attempt.token else Append.DONE
        if self.leave(attempt, "finish", done=done):
            run = self.run_of(attempt)
            run.outcome, run.settler, run.settling = True, attempt.token, self.model.now + TTL
            self.model.tickets[attempt.number] = run.settling
            self.model.waits = {one for one in self.model.waits if one[0] != attempt.number}
            self.model.free()

    @rule(attempt=attempts, state=st.sampled_from(FINAL))
    def settle(self, attempt: Attempt, state: str) -> None:
        run = self.model.runs.get(attempt.number)
        mine = run is not None and run.outcome and (run.settled or run.settler == attempt.token)
        assert attempt.binding.settle(state) is mine
        if mine and run is not None and not run.settled:
            run.settled, run.status = True, state
            self.model.tickets.pop(attempt.number)

    @rule(attempt=attempts)
    def release(self, attempt: Attempt) -> None:
        run = self.model.runs.get(attempt.number)
        settling = run is not None and run.outcome and not run.settled and run.settler == attempt.token
        owns = self.model.owner == attempt.token
        assert attempt.binding.release(5_000) is (owns or settling)
        if run is not None and settling:
            run.settling = 0
        if owns or settling:
            self.model.tickets[attempt.number] = self.model.now + 5_000
        if owns:
            self.model.free()

    @rule(attempt=attempts)
    def renew(self, attempt: Attempt) -> None:
        run = self.model.runs.get(attempt.number)
        settling = run is not None and run.outcome and not run.settled and run.settler == attempt.token
        owns = self.model.owner == attempt.token
        assert bool(attempt.binding.renew()) is (owns or settling)
        if owns:
            self.model.lease = self.model.now + TTL
        elif run is not None and settling:
            run.settling = self.model.now + TTL
        if owns or settling:
            self.model.tickets[attempt.number] = self.model.now + TTL

    @rule(number=numbers)
    def control(self, number: int) -> None:
        self.given += 1
        asked: dict[str, Any] = {"what": "cancel", "nonce": f"{self.given:032}", "entry": b"v"}
        run = self.model.runs.get(number)
        wanted = "UNKNOWN" if run is None else "REFUSED" if run.outcome else "OK"
        for _ in range(2):
            answer, due = self.store.control("ns", RunId("task", str(number)), **asked)
            assert answer == wanted
        if run is None or wanted != "OK":
            return
        self.model.tip = ("control", self.given)
        assert (due == "1") is (run.status in _WAITING)
        if run.status in _WAITING:
            run.wake, run.pushes = self.model.now, 0
            self.model.tickets[number] = self.model.now

    @rule()
    def sweep(self) -> None:
        due = self.store.sweep(APP)
        assert {int(run.id) for _, run in due.runs} == self.model.sweep()
        ahead = [max(0, at - self.model.now) for at in self.model.tickets.values()]
        assert due.next_ms == min(ahead, default=-1)

    # -- what is true all the time ----------------------------------------------------------------------------------

    @invariant()
    def tickets_are_the_same(self) -> None:
        keys = self.store.keys.namespace("ns")
        found = self.redis.data().get(self.store.keys.due(0, APP), {})
        assert found == {keys.member(f"task/{n}/0"): float(at) for n, at in self.model.tickets.items()}

    @invariant()
    def those_who_wait_are_the_same_in_the_same_order(self) -> None:
        held = self.redis.data().get(self.store.keys.namespace("ns").held, {})
        assert sorted(held, key=held.__getitem__) == [f"task/{number}/0" for number in self.model.held]

    @invariant()
    def every_run_has_its_status_and_its_message(self) -> None:
        for number in range(RUNS):
            run = self.model.runs.get(number)
            id = RunId("task", str(number))
            assert self.store.status("ns", id) == (run.status if run else None)
            if run is not None:
                assert self.store.message("ns", id) == run.message
        for status in OPEN + FINAL:
            members = self.redis.data().get(self.store.keys.status(0, status), {})
            assert len(members) == sum(run.status == status for run in self.model.runs.values())

    @invariant()
    def the_inbox_and_those_who_wait_are_the_same(self) -> None:
        assert self.bind(0).inbox("") == self.model.inbox
        keys = self.store.keys
        for event in EVENTS:
            members = set(self.redis.data().get(keys.waiting(0, event), {}))
            waits = {(run, one.wait) for run, one in self.model.waits if one.event == event}
            assert members == {keys.namespace("ns").member(f"task/{run}/0 {wait}") for run, wait in waits}

    @invariant()
    def keys_expire_when_nothing_is_open(self) -> None:
        data = self.redis.data()
        keys = {key for key in self.store.keys.namespace("ns").all if key in data}
        settled = all(run.settled for run in self.model.runs.values())
        assert data.get(EXPIRING, frozenset()) & keys == (keys if settled else set())


def _order(id: str) -> tuple[int, ...]:
    return tuple(map(int, id.split("-")))


StoreMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40)
TestStoreAgainstAModel = StoreMachine.TestCase
