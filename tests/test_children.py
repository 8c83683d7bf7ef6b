"""`step.run_task` in this process: what is refused, eager children, and that a child is the same however often it is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.app.control import Inspect
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from celery_steps import ChildFailed, DurableTask, ResultError, SettingsError, StepsError, StepTimeout
from celery_steps.codec import Codec
from celery_steps.engine.attempt import Attempt
from celery_steps.engine.child import Asked, Parent, _chances, _looks
from celery_steps.store.keys import RunId
from celery_steps.worker import notices, runtime
from celery_steps.worker.canvas import PARENT, Plan
from celery_steps.worker.children import WorkerChildren
from delivering import app_of_its_own, close, deliver, make_app, published
from servers import RedisServer

THE_PARENT = Parent("space", "task/run/0", "child#1")
ID = "11111111-1111-5111-8111-111111111111"


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = made(redis_server)
    yield app
    close(app)


@pytest.fixture
def eager() -> Celery:
    app = app_of_its_own("eager", broker="memory://", backend="cache+memory://")
    tasks_of(app)
    return app


def made(server: RedisServer, **settings: Any) -> Celery:
    app = make_app(server, **settings)
    # Nobody listens for results here: unsubscribing, whenever one is collected, would need the server.
    app.backend.on_task_call = app.backend.remove_pending_result = lambda *_: None
    tasks_of(app)
    return app


def tasks_of(app: Celery) -> None:
    @app.task(name="add")
    def add(*numbers: int) -> int:
        return sum(numbers)

    @app.task(name="total")
    def total(numbers: list[int], more: int = 0) -> int:
        return sum(numbers) + more

    @app.task(name="fail")
    def fail(*given: Any) -> None:
        raise ConnectionError(7, "refused")

    @app.task(name="odd")
    def odd() -> Any:
        return object()

    @app.task(name="silent", ignore_result=True)
    def silent() -> None: ...

    @app.task(name="double", bind=True, base=DurableTask, namespace="double-{number}")
    def double(self: DurableTask, number: int) -> int:
        return self.step.run("double", lambda: 2 * number)

    @app.task(name="parent", bind=True, base=DurableTask)
    def parent(self: DurableTask, *call: Any, **options: Any) -> Any:
        return self.step.run_task("child", *call, **options)


def run(app: Celery, *call: Any, **options: Any) -> Any:
    return app.tasks["parent"].apply(call, options).get()


def canvases(app: Celery) -> dict[str, Any]:
    add, total, double = app.tasks["add"], app.tasks["total"], app.tasks["double"]
    return {
        "task": add.s(1, 2),
        "durable": double.s(4),
        "chain": chain(add.s(1, 2), add.s(3), double.s()),
        "chain of one": chain(add.s(1, 2)),
        "group": group(add.s(1, i) for i in range(3)),
        "group of chains": group(chain(add.s(1), add.s(i)) for i in range(2)),
        "group in a group": group(add.s(1), group(add.s(2), add.s(2))),
        "chord": chord([add.s(1, 1), double.s(2)], total.s(5)),
        "chord of chains": chord([chain(add.s(1), add.s(2)), add.s(3)], total.s()),
        "chord with a chain as body": chord([add.s(1), add.s(2)], chain(total.s(), add.s(1))),
        "chain with a group inside": chain(add.s(1), group(add.s(1), add.s(2)), total.s()),
        "chain that ends in a group": chain(add.s(1), group(add.s(1), add.s(2))),
        "chain of chords": chain(chord([add.s(1), add.s(2)], total.s()), group(add.s(1), add.s(2)), total.s()),
        "group of chords": group(chord([add.s(1, i), add.s(2)], total.s()) for i in range(2)),
        "chord with a chord as body": chord([add.s(1), add.s(2)], chord([total.s(), total.s(1)], total.s())),
        "chord in a chord": chord([chord([add.s(1), add.s(2)], total.s()), add.s(3)], total.s()),
    }


# -- outside a worker ---------------------------------------------------------------------------------------------------

RESULTS = {
    "task": 3,
    "durable": 8,
    "chain": 12,
    "chain of one": 3,
    "group": [1, 2, 3],
    "group of chains": [1, 2],
    "group in a group": [1, 2, 2],
    "chord": 11,
    "chord of chains": 6,
    "chord with a chain as body": 4,
    "chain with a group inside": 5,
    "chain that ends in a group": [2, 3],
    "chain of chords": 9,
    "group of chords": [3, 4],
    "chord with a chord as body": 7,
    "chord in a chord": 6,
}


@pytest.mark.parametrize("name", RESULTS)
def test_outside_a_worker_a_child_runs_at_once(eager: Celery, name: str) -> None:
    assert run(eager, canvases(eager)[name]) == RESULTS[name]


def test_the_first_failure_of_an_eager_child_is_raised(eager: Celery) -> None:
    add, fail = eager.tasks["add"], eager.tasks["fail"]
    for child in ("fail", fail, chain(add.s(1), fail.s(), add.s(1)), group(add.s(1), fail.s())):
        with pytest.raises(ChildFailed, match="ConnectionError") as caught:
            run(eager, child)
        assert caught.value.error == caught.value.__cause__
        assert type(caught.value.error) is ConnectionError
        assert caught.value.error.args == (7, "refused")


def test_a_direct_call_has_its_children_in_this_process(eager: Celery) -> None:
    assert eager.tasks["parent"]("double", [4]) == 8


def test_an_eager_retry_sends_a_failed_child_again(eager: Celery) -> None:
    tries: list[str] = []

    @eager.task(name="once", bind=True)
    def once(self: Any) -> str:
        tries.append(self.request.id)
        if len(tries) == 1:
            raise ConnectionError
        return "done"

    @eager.task(name="stubborn", bind=True, base=DurableTask)
    def stubborn(self: DurableTask) -> Any:
        try:
            return self.step.run_task("child", once)
        except ChildFailed as failed:
            raise self.retry(exc=failed) from failed

    assert stubborn.apply().get() == "done"
    assert len(set(tries)) == 2


# -- what is refused ----------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Callable[[Celery], Any], dict[str, Any], type[Exception], str]] = {
    "an unknown name": (lambda app: "nowhere", {}, StepsError, "no task named 'nowhere'.*queue="),
    "an unknown name in a canvas": (
        lambda app: chain(app.tasks["add"].s(1), app.signature("nowhere")),
        {},
        StepsError,
        "nowhere",
    ),
    "no task": (lambda app: 5, {}, StepsError, "must be a task, its name, a signature or a canvas.*not 5"),
    "a function": (lambda app: print, {}, StepsError, "must be a task"),
    "arguments that cannot be sent": (lambda app: "add", {"args": [object()]}, StepsError, "add cannot be sent, as json"),
    "a child without result": (lambda app: "silent", {}, StepsError, "silent ignores its result.*ignore_result=False"),
    "no result wanted": (lambda app: "add", {"ignore_result": True}, StepsError, "ignore_result cannot be given"),
    "an id": (lambda app: "add", {"task_id": "mine"}, StepsError, "task_id cannot be given"),
    "a connection": (lambda app: "add", {"producer": object()}, StepsError, "producer cannot be given"),
    "a timeout that is none": (lambda app: "add", {"timeout": "soon"}, StepsError, "run_task.'child'.'s timeout"),
    "a namespace for a canvas": (lambda app: group(app.tasks["add"].s()), {"namespace": "n"}, StepsError, "for one task"),
    "a blank namespace": (lambda app: "double", {"args": [1], "namespace": " "}, StepsError, "namespace for double"),
    "arguments without namespace": (lambda app: "double", {}, StepsError, "The namespace of double"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_sent_is_refused_before_anything_is_recorded(app: Celery, case: str) -> None:
    make, options, error, text = REFUSED[case]
    args = options.get("args")
    options = {name: value for name, value in options.items() if name != "args"}
    with pytest.raises(error, match=text):
        raise deliver(
            calling(app, lambda step: step.run_task("child", make(app), args, **options)), id="refused"
        ).retval.exception
    assert {entry.kind for entry in runtime.of(app).store.entries("refused")} <= {"attempt", "finish"}
    assert published(app) == []


@pytest.mark.parametrize("backend", ["", "rpc://"])
def test_a_result_backend_that_cannot_be_read_is_refused(redis_server: RedisServer, backend: str) -> None:
    app = make_app(redis_server, result_backend=backend or None)
    tasks_of(app)
    with pytest.raises(SettingsError, match="cannot be read from"):
        WorkerChildren(app).freeze(Asked("add", [1], None, {}), ID, THE_PARENT, "step.run_task('child')")
    app.pool.force_close_all()


def calling(app: Celery, body: Callable[[Any], Any]) -> DurableTask:
    """A durable task with this body."""

    @app.task(name="calling", bind=True, base=DurableTask)
    def task(self: DurableTask) -> Any:
        return body(self.step)

    found: DurableTask = app.tasks["calling"]
    return found


def test_a_name_that_only_others_know_needs_a_queue(app: Celery) -> None:
    assert deliver(calling(app, lambda step: step.run_task("child", "theirs", [1], queue="theirs"))).info.state == "IGNORED"
    with app.connection_for_write() as connection, connection.SimpleQueue("theirs", no_ack=True) as queue:
        assert queue.get(timeout=1).headers["task"] == "theirs"


# -- sending ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in RESULTS if name != "durable"])
def test_a_child_that_is_sent_again_has_the_same_ids(app: Celery, name: str) -> None:
    children = WorkerChildren(app)
    frozen = children.freeze(Asked(canvases(app)[name], None, None, {}), ID, THE_PARENT, "here")
    sent = []
    for _ in range(2):
        assert children.send(frozen.detail)
        sent.append([text_of(message) for message in published(app)])
    assert sent[0] == sent[1], "word for word: also the groups that count the members of chords are the same"
    plan = Plan.read(frozen.detail)
    assert sorted(ids for ids, _ in sent[0]) == sorted(plan.first)
    text = "".join(text for _, text in sent[0])
    assert all(node.id in text for node in plan.nodes)
    assert PARENT in text
    assert ID in text or isinstance(plan.shape, list)


def text_of(message: Any) -> tuple[str, str]:
    return message.headers["id"], json.dumps([message.headers, message.payload])


def test_of_a_group_only_what_is_missing_is_sent_again(app: Celery) -> None:
    children = WorkerChildren(app)
    frozen = children.freeze(Asked(canvases(app)["group"], None, None, {}), ID, THE_PARENT, "here")
    first = Plan.read(frozen.detail).first
    assert [child.missing for child in children.look([frozen.detail])] == [tuple(first)]
    app.backend.store_result(first[1], None, "STARTED")
    missing = children.look([frozen.detail])[0].missing
    assert missing == (first[0], first[2])
    assert children.send(frozen.detail, missing)
    assert [message.headers["id"] for message in published(app)] == list(missing)


def test_what_is_missing_of_a_chord_in_a_group_is_counted_with_what_was_seen(app: Celery) -> None:
    children = WorkerChildren(app)
    frozen = children.freeze(Asked(canvases(app)["group of chords"], None, None, {}), ID, THE_PARENT, "here")
    first = Plan.read(frozen.detail).first
    assert children.send(frozen.detail)
    groups = {message.headers["id"]: message.headers["group"] for message in published(app)}
    assert [len({groups[id] for id in ids}) for ids in (first, first[:2], first[2:])] == [2, 1, 1], "one for each chord"
    assert children.send(frozen.detail, first[3:])
    assert {message.headers["id"]: message.headers["group"] for message in published(app)} == {id: groups[id] for id in first[2:]}


def test_while_the_broker_is_away_the_run_waits_and_sends_later(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    task = calling(app, lambda step: step.run_task("child", "double", [4]))

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(app), "send_task", away)
        assert deliver(task, id="run").info.state == "IGNORED"
    assert published(app) == []
    make_due(app, "run")
    an_hour_later(monkeypatch)
    assert deliver(task, id="run").info.state == "IGNORED"
    (message,) = published(app)
    assert message.headers["task"] == "double"


def make_due(app: Celery, run: str) -> None:
    """Let the run's wake time be past."""
    store = runtime.of(app).store
    store.client.call("HSET", store.keys.namespace(run).run, f"{RunId('calling', run)}:wake", "0")


def an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What attempts take for the time."""
    now_ms = Attempt.now_ms
    monkeypatch.setattr(Attempt, "now_ms", lambda attempt: now_ms(attempt) + 3_600_000)


def test_a_child_that_nobody_can_ask_for_is_not_taken_for_lost(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    children = WorkerChildren(app)
    frozen = children.freeze(Asked("add", [1], None, {}), ID, THE_PARENT, "here")

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(type(app.backend), "get_task_meta", away)
    (child,) = children.look([frozen.detail])
    assert (child.missing, child.over) == ((), False)


def of_a_plain_child(app: Celery) -> Any:
    task = calling(app, lambda step: step.run_task("child", "add", [1, 2]))
    deliver(task, id="run")
    return task


def later(app: Celery, task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_due(app, "run")
    an_hour_later(monkeypatch)
    deliver(task, id="run", headers={"steps_ticket": True})


def test_a_plain_child_that_may_be_queued_is_not_sent_again_however_long_that_takes(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    later(app, of_a_plain_child(app), monkeypatch)
    assert [message.headers["task"] for message in published(app)] == ["add"]


@pytest.mark.parametrize("reserved", [True, False])
def test_one_that_is_in_no_queue_is_sent_again_unless_a_worker_has_it(
    app: Celery, monkeypatch: pytest.MonkeyPatch, reserved: bool
) -> None:
    task = of_a_plain_child(app)
    (taken,) = published(app)
    id = taken.headers["id"]
    asked: list[str] = []

    def answers(self: Inspect, *ids: str) -> Any:
        asked.extend(ids)
        return {"worker@here": {id: ["reserved", {}]} if reserved else {}, "worker@there": {}}

    monkeypatch.setattr(Inspect, "query_task", answers)
    later(app, task, monkeypatch)
    assert asked == [id]
    assert [message.headers["id"] for message in published(app)] == ([] if reserved else [id])


def test_one_whose_broker_is_away_is_not_taken_for_lost(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    children = WorkerChildren(app)
    frozen = children.freeze(Asked("add", [1], None, {}), ID, THE_PARENT, "here")

    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(type(app), "connection_for_write", away)
    assert children.are_lost([(frozen.detail, [ID])]) == [False]


def test_many_are_asked_for_at_once_each_by_the_queue_that_it_was_sent_to(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue may be the task's own, or be chosen by a router that wants to see the task."""

    @app.task(name="slow")
    def slow() -> None: ...

    slow.queue = "slow"

    @app.task(name="routed", lane="fast")
    def routed() -> None: ...

    def route(name: str, *_: Any, task: Any = None, **__: Any) -> dict[str, str] | None:
        return {"queue": task.lane} if hasattr(task, "lane") else None

    app.conf.task_routes = [route]
    children, connected, asked = WorkerChildren(app), [], []
    ids = [f"{name}-{i}" for name in ("slow", "routed", "add") for i in range(3)]
    details = [children.freeze(Asked(id.split("-")[0], None, None, {}), id, THE_PARENT, "here").detail for id in ids]
    for detail in (details[0], details[3]):
        assert children.send(detail)
    connect = type(app).connection_for_write

    def counted(self: Celery, *args: Any, **options: Any) -> Any:
        connected.append(1)
        return connect(self, *args, **options)

    def answers(self: Inspect, *given: str) -> Any:
        asked.append(list(given))
        return {"worker@here": {"add-1": ["reserved", {}]}}

    monkeypatch.setattr(type(app), "connection_for_write", counted)
    monkeypatch.setattr(Inspect, "query_task", answers)
    lost = children.are_lost([(detail, [id]) for detail, id in zip(details, ids, strict=True)])
    assert [id for id, gone in zip(ids, lost, strict=True) if gone] == ["add-0", "add-2"]
    assert (asked, len(connected)) == ([["add-0", "add-1", "add-2"]], 3)
    assert [message.headers["id"] for queue in ("slow", "fast") for message in published(app, queue)] == ["slow-0", "routed-0"]


def test_all_waits_of_a_run_are_asked_for_in_one_look(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(step: Any) -> None:
        with step.parallel() as p:
            for i in range(5):
                p.run_task(f"child {i}", "add", [i])

    task = calling(app, body)
    deliver(task, id="run")
    sent = [message.headers["id"] for message in published(app)]
    asked: list[int] = []
    monkeypatch.setattr(Inspect, "query_task", lambda self, *ids: asked.append(len(ids)) or {"worker@here": {sent[2]: []}})
    later(app, task, monkeypatch)
    assert asked == [5]
    assert sorted(message.headers["id"] for message in published(app)) == sorted({*sent} - {sent[2]})


# -- its end ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def watched() -> Iterator[None]:
    """Tasks tell their parents, as in a worker."""
    from celery import signals

    notices.connect()
    yield
    for signal in (signals.task_prerun, signals.task_postrun, signals.task_revoked):
        signal.disconnect(dispatch_uid="celery-steps-child")


def run_sent(app: Celery) -> list[Any]:
    """Run what waits in the broker."""
    ended = []
    for message in published(app):
        headers, (args, kwargs, _) = message.headers, message.payload
        task = app.tasks[headers["task"]]
        ended.append(deliver(task, *args, kwargs=kwargs, id=headers["id"], headers=headers, retries=headers["retries"]))
    return ended


@pytest.mark.usefixtures("watched")
def test_a_child_that_ends_wakes_its_parent_at_once(app: Celery) -> None:
    task = calling(app, lambda step: step.run_task("child", "add", [1, 2]))
    assert deliver(task, id="run").info.state == "IGNORED"
    assert AsyncResult("run", app=app).info["waiting_for"] == "run_task add"
    (child,) = run_sent(app)
    assert child.retval == 3
    (parent,) = run_sent(app)
    assert parent.retval == 3
    assert runtime.of(app).store.client.call("XLEN", runtime.of(app).store.keys.namespace("run").inbox) == 0


@pytest.mark.usefixtures("watched")
def test_a_plain_child_shows_that_it_runs(app: Celery) -> None:
    states: list[str] = []

    @app.task(name="watching", bind=True)
    def watching(self: Any) -> None:
        states.append(AsyncResult(self.request.id, app=app).state)

    task = calling(app, lambda step: step.run_task("child", chain(watching.si(), watching.si())))
    assert deliver(task, id="run").info.state == "IGNORED"
    run_sent(app)
    assert states == ["STARTED"]


@pytest.mark.usefixtures("watched")
def test_a_durable_childs_journal_outlives_the_result_backend(app: Celery) -> None:
    task = calling(app, lambda step: step.run_task("child", "double", [4]))
    deliver(task, id="run")
    (child,) = run_sent(app)
    assert child.retval == 8
    app.backend.client.flushdb()
    (parent,) = run_sent(app)
    assert parent.retval == 8


@pytest.mark.usefixtures("watched")
def test_a_result_that_cannot_be_recorded_is_the_steps_failure(redis_server: RedisServer) -> None:
    app = made(redis_server, result_serializer="pickle", accept_content=["json", "pickle"])
    task = calling(app, lambda step: step.run_task("child", "odd"))
    deliver(task, id="run")
    run_sent(app)
    (parent,) = run_sent(app)
    assert type(parent.retval.exception) is ResultError
    assert "The result of the child odd of step 'child' (occurrence 1)" in str(parent.retval.exception)
    close(app)


@pytest.mark.usefixtures("watched")
def test_a_child_that_ended_in_time_counts_also_when_nobody_looked_before_the_deadline(app: Celery) -> None:
    task = calling(app, lambda step: step.run_task("child", "add", [1], timeout=0))
    assert deliver(task, id="late").info.state == "FAILURE"
    assert type(AsyncResult("late", app=app).result) is StepTimeout


def test_a_failed_child_is_the_same_after_it_was_recorded() -> None:
    codec = Codec()
    inner = ChildFailed("inner", task="b", task_id="2", error=ValueError(1, "two"))
    failed = codec.decode_failure(codec.encode_failure(ChildFailed("outer", task="a", task_id="1", error=inner)))
    assert (str(failed), failed.task, failed.task_id) == ("outer", "a", "1")
    assert (str(failed.error), failed.error.task, failed.error.task_id) == ("inner", "b", "2")
    assert (type(failed.error.error), failed.error.error.args) == (ValueError, (1, "two"))


def test_an_error_that_holds_itself_can_be_recorded() -> None:
    codec, error = Codec(), ChildFailed("around")
    error.error = error
    assert str(codec.decode_failure(codec.encode_failure(error)).error) == "around"


# -- when to look -------------------------------------------------------------------------------------------------------


def test_looks_come_after_a_lease_and_then_ever_later() -> None:
    lease, at, seen = 30_000, 0, []
    for _ in range(8):
        number, at = _looks(at, lease)
        seen.append((number, at))
    pauses = [later - earlier for (_, earlier), (_, later) in zip([(0, 0), *seen], seen, strict=False)]
    assert [number for number, _ in seen] == list(range(8))
    assert pauses == [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000, 600_000]
    assert _looks(seen[-1][1] - 1, lease) == (7, seen[-1][1])


def test_a_child_that_may_run_twice_is_given_more_time() -> None:
    lease = 30_000
    assert [_chances(elapsed * lease, lease, once=False) for elapsed in (0, 9, 10, 19, 20, 39, 40)] == [0, 0, 1, 1, 2, 2, 3]
    assert [_chances(elapsed * lease, lease, once=True) for elapsed in (0, 1, 2, 3, 7)] == [0, 1, 1, 2, 3]
