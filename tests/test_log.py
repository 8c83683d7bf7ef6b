"""step.log and step.progress over deliveries: durable, said once, and never by who has lost the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, states

from celery_steps import DurableTask, Runs
from celery_steps.engine import telling
from celery_steps.worker import runtime
from delivering import close, deliver, make_app, namespace_fields
from servers import RedisServer


@pytest.fixture
def app(redis_server: RedisServer) -> Iterator[Celery]:
    app = make_app(redis_server)
    yield app
    close(app)


@pytest.fixture(autouse=True)
def every_value_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_PACE", 0.0)


def said(app: Celery, name: str = "id-1") -> list[str]:
    return [line.message for line in Runs(app).logs(name)]


def state_of(app: Celery, id: str = "id-1") -> tuple[str, Any]:
    found = app.AsyncResult(id)
    return found.state, found.info


def take_over(app: Celery, task: Any, end: bool = True) -> None:
    """The lease of id-1 runs out, and another delivery does the run meanwhile."""
    store = runtime.of(app).store
    store.client.call("HSET", store.keys.namespace("id-1").run, "lease", "0")
    deliver(task, id="id-1", redelivered=True)


def test_a_run_that_was_suspended_says_every_line_once(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.log.info("begun")
        self.step.run("load", lambda: self.step.log.info("loading"))
        self.step.log.info("loaded")
        self.step.wait_for_event("go")
        self.step.log.info("gone")

    with caplog.at_level(logging.INFO, "celery_steps.run"):
        deliver(task, id="id-1")
        assert said(app) == ["begun", "loading", "loaded"]
        assert Runs(app).emit("go", {}, to="id-1") == 1
        deliver(task, id="id-1", redelivered=True)
    assert said(app) == ["begun", "loading", "loaded", "gone"]
    python = [record.getMessage() for record in caplog.records if record.name == "celery_steps.run"]
    assert python == ["begun", "loading", "loaded", "gone"]


def test_a_run_that_is_retried_says_every_line_of_a_new_try(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(bind=True, base=DurableTask, autoretry_for=(OSError,), default_retry_delay=0)
    def task(self: DurableTask) -> None:
        self.step.log.info("begun")

        def ship() -> None:
            self.step.log.info("shipping")
            if not self.request.retries:
                raise OSError("storm")

        try:
            self.step.run("ship", ship)
        except OSError:
            self.step.log.warning("storm")
            raise
        self.step.log.info("shipped")

    with caplog.at_level(logging.INFO, "celery_steps.run"):
        deliver(task, id="id-1")
        deliver(task, id="id-1", retries=1)
    expected = ["begun", "shipping", "storm", "shipping", "shipped"]
    assert said(app) == expected
    assert [r.getMessage() for r in caplog.records if r.name == "celery_steps.run"] == expected
    lines = Runs(app).logs("id-1")
    assert [(line.attempt, line.key, line.level) for line in lines] == [
        (1, "", "info"),
        (1, "ship", "info"),
        (1, "", "warning"),
        (2, "ship", "info"),
        (2, "", "info"),
    ]
    assert {(line.namespace, line.run_id, line.task) for line in lines} == {("id-1", "id-1", task.name)}


def test_a_killed_worker_has_said_what_it_said(app: Celery) -> None:
    killed = [True, False]

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.log.info("begun")
        self.step.run("load", lambda: 1)
        self.step.log.info("loaded")
        self.step.progress(1, 2)
        if killed.pop(0):
            store = runtime.of(app).store
            store.client.call("HSET", store.keys.namespace("id-1").run, "lease", "0")
            raise SystemExit
        self.step.log.info("done")

    with pytest.raises(SystemExit):
        deliver(task, id="id-1")
    assert said(app) == ["begun", "loaded"]
    assert state_of(app)[0] == "PROGRESS"
    deliver(task, id="id-1", redelivered=True)
    assert said(app) == ["begun", "loaded", "done"]
    assert state_of(app) == ("SUCCESS", None)


def test_a_line_begins_a_run(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.log.info("hello")

    deliver(task, id="id-1")
    assert said(app) == ["hello"]
    assert Runs(app).get("id-1").status == "succeeded"


def test_knowing_oneself_begins_no_run(app: Celery) -> None:
    seen = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        step = self.step
        seen.append((step.run_id, step.namespace, step.attempt, step.resumed, step.replaying))

    deliver(task, id="id-1", headers={"steps_namespace": "order-42"})
    assert seen == [("id-1", "order-42", 1, False, False)]
    assert runtime.of(app).store.client.call("KEYS", "*") == []


def test_a_redelivered_run_knows_that_it_is_resumed(app: Celery) -> None:
    seen = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        seen.append((self.step.attempt, self.step.resumed, self.step.replaying))
        self.step.run("load", lambda: 1)
        self.step.sleep("rest", "1h")

    deliver(task, id="id-1")
    store = runtime.of(app).store
    store.client.call("HSET", store.keys.namespace("id-1").run, f"{task.name}/id-1/0:wake", "0")
    deliver(task, id="id-1", redelivered=True)
    assert seen == [(1, False, False), (2, True, True)]


# -- progress as Celery shows it ----------------------------------------------------------------------------------------


def test_progress_is_kept_on_the_run_and_is_its_celery_state(app: Celery) -> None:
    shown = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        def load() -> None:
            self.step.progress(1, 3, "loading", rows=(1, 2))
            shown.append(state_of(app))

        self.step.run("load", load)
        self.step.progress(2, total=3, message="loaded")
        shown.append(state_of(app))
        shown.append(Runs(app).get("id-1").progress)

    deliver(task, id="id-1")
    assert shown[0] == ("PROGRESS", {"current": 1, "total": 3, "message": "loading", "rows": [1, 2]})
    assert shown[1] == ("PROGRESS", {"current": 2, "total": 3, "message": "loaded"})
    assert (shown[2].current, shown[2].total, shown[2].message, shown[2].data) == (2, 3, "loaded", {})
    assert state_of(app) == ("SUCCESS", None)
    assert Runs(app).get("id-1").progress == shown[2]
    assert Runs(app).list().runs[0].progress == shown[2]


@pytest.mark.parametrize("end", ["success", "failure", "retry", "suspended"])
def test_progress_that_waits_to_be_written_does_not_lie_over_how_the_attempt_ended(
    app: Celery, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(telling, "_PACE", 3600.0)

    @app.task(bind=True, base=DurableTask, max_retries=3)
    def task(self: DurableTask) -> str:
        self.step.progress(1)
        self.step.progress(2)
        if end == "failure":
            raise ValueError("no card")
        if end == "retry":
            raise self.retry(countdown=600)
        if end == "suspended":
            self.step.sleep("rest", "1h")
        return "done"

    deliver(task, id="id-1")
    wanted = {"success": "SUCCESS", "failure": "FAILURE", "retry": "RETRY", "suspended": "SUSPENDED"}
    assert state_of(app)[0] == wanted[end]
    progress = Runs(app).get("id-1").progress
    assert progress is not None
    assert progress.current == 2


def test_progress_never_lies_over_a_final_state(app: Celery) -> None:
    shown = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)
        app.backend.mark_as_revoked("id-1", "revoked")
        self.step.progress(1)
        shown.append(state_of(app)[0])

    deliver(task, id="id-1")
    assert shown == [states.REVOKED]


def test_progress_that_celery_cannot_encode_is_shown_as_its_repr(app: Celery) -> None:
    shown = []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.progress(1, tags=frozenset({"a"}))
        shown.append(state_of(app))
        progress = Runs(app).get("id-1").progress
        assert progress is not None
        shown.append(progress.data)

    deliver(task, id="id-1")
    assert shown[0][0] == "PROGRESS"
    assert shown[0][1]["current"] == 1
    assert shown[1] == {"tags": frozenset({"a"})}


def test_a_result_backend_that_refuses_progress_does_not_concern_the_run(
    app: Celery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(type(app.backend), "store_result", _refuse)
            self.step.progress(1)
        return self.step.run("load", lambda: "loaded")

    assert deliver(task, id="id-1").retval == "loaded"
    assert "its progress could not be stored" in caplog.text


def _refuse(*_: Any, **__: Any) -> None:
    raise OSError("disk full")


def test_progress_of_a_task_without_result_is_kept_and_not_stored(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask, ignore_result=True)
    def task(self: DurableTask) -> None:
        self.step.progress(1)
        assert state_of(app)[0] == "PENDING"

    deliver(task, id="id-1")
    progress = Runs(app).get("id-1").progress
    assert progress is not None
    assert progress.current == 1


# -- who has lost the run -----------------------------------------------------------------------------------------------


def test_a_stale_owner_says_nothing(app: Celery) -> None:
    first = [True]

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> str:
        def load() -> str:
            if not first or not first.pop():
                return "loaded"
            self.step.log.info("loading slowly")
            take_over(app, task)
            self.step.log.info("too late")
            self.step.progress(99)
            return "too late"

        loaded = self.step.run("load", load)
        self.step.log.info("loaded")
        self.step.progress(1)
        return loaded

    deliver(task, id="id-1")
    assert said(app) == ["loading slowly", "loaded"]
    progress = Runs(app).get("id-1").progress
    assert progress is not None
    assert progress.current == 1
    assert state_of(app) == ("SUCCESS", "loaded")


def test_a_stale_owner_in_its_body_says_nothing(app: Celery) -> None:
    first = [True]

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)
        if first and first.pop():
            take_over(app, task)
            self.step.log.info("too late")
            self.step.progress(99)
        self.step.run("ship", lambda: 2)
        self.step.log.info("shipped")

    deliver(task, id="id-1")
    assert said(app) == ["shipped"]
    assert Runs(app).get("id-1").progress is None
    assert state_of(app)[0] == "SUCCESS"


def test_a_stale_owner_does_not_change_the_state_of_a_suspended_run(app: Celery) -> None:
    first, shown = [True], []

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.run("load", lambda: 1)
        if first and first.pop():
            take_over(app, task)
            self.step.progress(99)
            shown.append(state_of(app)[0])
        self.step.wait_for_event("go")

    deliver(task, id="id-1")
    assert shown == ["SUSPENDED"]
    assert state_of(app)[0] == "SUSPENDED"


def test_runs_that_share_a_namespace_share_its_log(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.log.info(f"{self.request.id} begun")
        self.step.run("load", lambda: 1)
        self.step.log.info(f"{self.request.id} loaded")

    for id in ("id-1", "id-2"):
        deliver(task, id=id, headers={"steps_namespace": "order-42"})
    assert said(app, "order-42") == ["id-1 begun", "id-1 loaded", "id-2 begun", "id-2 loaded"]
    assert said(app, "id-2") == ["id-2 begun", "id-2 loaded"]


def test_what_takes_the_place_of_a_replaced_run_says_its_own_lines(app: Celery) -> None:
    app.conf.result_backend = None

    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask, last: bool = False) -> None:
        self.step.log.info("begun")
        if not last:
            self.replace(task.si(True))

    deliver(task, id="id-1")
    deliver(task, True, id="id-1", replaced_task_nesting=1)
    assert said(app) == ["begun", "begun"]


def test_an_eager_run_keeps_nothing(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> int:
        self.step.log.info("hello")
        self.step.progress(1)
        return self.step.attempt

    assert task.apply().get() == 1
    assert task() == 1
    assert runtime.of(app).store.client.call("KEYS", "*") == []


def test_fields_of_a_run_hash_may_be_bytes(app: Celery) -> None:
    @app.task(bind=True, base=DurableTask)
    def task(self: DurableTask) -> None:
        self.step.progress(200, message="é\ud800")

    deliver(task, id="id-1")
    assert any(field.endswith(":progress") for field in namespace_fields(app, "id-1"))
