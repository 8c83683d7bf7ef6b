"""The children of runs: sending, looking at and cancelling them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from celery import Celery, states
from celery.canvas import Signature
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from celery.result import GroupResult, allow_join_result
from kombu.exceptions import OperationalError

from celery_steps.codec.failures import RecordedTraceback
from celery_steps.engine.child import Asked, Child, Frozen, Parent
from celery_steps.engine.entries import read_finish
from celery_steps.errors import StepsError
from celery_steps.store.keys import RunId
from celery_steps.worker import canvas, runtime
from celery_steps.worker.canvas import Node, Plan
from celery_steps.worker.result import decoded
from celery_steps.worker.revoke import cancel_open_runs

logger = logging.getLogger("celery_steps")

_BAD = (states.FAILURE, states.REVOKED)
_RAISED = {"ignored": "Ignore", "rejected": "Reject"}


class _Known(NamedTuple):
    """What is known of one task."""

    seen: bool
    once: bool
    over: bool = False
    value: Any = None
    error: Exception | None = None
    revoked: bool = False


class WorkerChildren:
    """Children that are sent through the broker."""

    checks_backend = True

    def __init__(self, app: Celery) -> None:
        self._app = app

    def freeze(self, asked: Asked, id: str, parent: Parent, said_by: str) -> Frozen:
        """Check that it can be sent and its result be read, and fix every id of it."""
        if self.checks_backend:
            canvas.check_backend(self._app, said_by)
        return canvas.freeze(self._app, asked, id, parent, said_by)

    def send(self, detail: bytes, missing: Sequence[str] = ()) -> bool:
        """Send it, or what is missing of it. False: the broker is away."""
        plan = Plan.read(detail)
        try:
            with canvas.ids_fixed():
                self._apply(plan, canvas.loaded(self._app, plan, missing))
        except self._away() as error:  # it is sent again as nobody has seen it
            logger.warning("The child %s could not be sent yet: %r", plan.shape, error)
            return False
        return True

    def _away(self) -> tuple[type[Exception], ...]:
        """How it is told that the broker, or the result backend that counts for chords, cannot be reached."""
        return OperationalError, OSError, *getattr(self._app.backend, "connection_errors", ())

    def _apply(self, plan: Plan, signature: Signature) -> None:
        signature.apply_async(add_to_parent=False)

    # -- looking ----------------------------------------------------------------------------------------------------

    def look(self, details: Sequence[bytes]) -> list[Child]:
        """What is known of several children: a few round trips for all of them, where the result backend can do that."""
        plans = [Plan.read(detail) for detail in details]
        nodes = list({node.id: node for plan in plans for node in plan.nodes}.values())
        known = self._known_to_store(nodes)
        rest = [node.id for node in nodes if not known[node.id].over]
        try:
            metas = _metas(self._app, rest)
        except SoftTimeLimitExceeded:
            raise
        except Exception as error:  # nothing can be said of them now: they are not taken for lost
            logger.warning("The results of children could not be read: %r", error)
            known.update((id, known[id]._replace(seen=True)) for id in rest)
            metas = {}
        for id, meta in metas.items():
            known[id] = _stored(meta, known[id])
        return [_judged(plan, known) for plan in plans]

    def are_lost(self, asked: Sequence[tuple[bytes, Sequence[str]]]) -> list[bool]:
        """Of several children, whether what nobody has begun is with no worker, and cannot be in a queue, as that is empty.

        Where neither brokers nor workers answer to that, it counts as lost; where the broker is away, as not. Each queue is
        looked at once, and the workers are asked once for all: that takes a second.
        """
        try:
            queues = [self._queues_of(detail, missing) for detail, missing in asked]
            filled = {name for name in sorted(set().union(*queues)) if self._is_filled(name)}
            doubtful = [not names & filled for names in queues]
            unqueued = [missing for (_, missing), unsure in zip(asked, doubtful, strict=True) if unsure]
            reserved = self._reserved([id for missing in unqueued for id in missing])
        except self._away() as error:
            ids = [id for _, missing in asked for id in missing]
            logger.warning("It cannot be found out whether the children %s are lost: %r", ids[:10], error)
            return [False] * len(asked)
        return [unsure and not reserved.intersection(missing) for (_, missing), unsure in zip(asked, doubtful, strict=True)]

    def _queues_of(self, detail: bytes, missing: Sequence[str]) -> set[str]:
        """The queues in which what is missing may be, found as Celery does when it sends a task."""
        router, found = self._app.amqp.router, set()
        for task in canvas.heads(canvas.loaded(self._app, Plan.read(detail), missing)):
            if task.options["task_id"] in missing:
                known = self._app.tasks.get(task.task)
                options = {**(known._get_exec_options() if known is not None else {}), **task.options}
                queue = router.route(options, task.task, task.args, task.kwargs, task_type=known).get("queue")
                if queue is not None:
                    found.add(getattr(queue, "name", queue))
        return found

    def _is_filled(self, queue: str) -> bool:
        with self._app.connection_for_write() as connection:  # one each: AMQP closes the channel if there is no such queue
            try:
                return bool(connection.default_channel.queue_declare(queue, passive=True).message_count)
            except connection.channel_errors:
                return False

    def _reserved(self, ids: list[str]) -> set[str]:
        """Those that a worker has, but not begun: prefetched, or for later."""
        answers = self._app.control.inspect(timeout=1.0).query_task(*ids) if ids else None
        found = {id for answer in (answers or {}).values() for id in answer or ()}
        return found if found <= set(ids) else set(ids)  # something else is an error: that worker may have any of them

    def _known_to_store(self, nodes: list[Node]) -> dict[str, _Known]:
        """What their journals say, which outlives the result backend's memory."""
        found = {node.id: _Known(False, node.durable) for node in nodes}
        asked = [node for node in nodes if node.durable or node.task not in self._app.tasks]
        store = runtime.of(self._app).store
        unknown = [node.id for node in asked if not node.namespace]
        namespaces = dict(zip(unknown, store.namespaces_of(unknown), strict=True))
        places = [(node.namespace or namespaces[node.id], RunId(node.task, node.id)) for node in asked]
        for node, ended in zip(asked, store.ends(places), strict=True):
            if ended is None:
                continue
            status, entry = ended
            seen = found[node.id]._replace(seen=True, once=True)
            found[node.id] = seen if entry is None else self._outcome(seen, status, read_finish(entry))
        return found

    def _outcome(self, seen: _Known, status: str, finish: Any) -> _Known:
        """A settled run. What Celery stored otherwise than the journal says is read from the result backend."""
        if status == "succeeded" and finish.outcome == "succeeded":
            return seen._replace(over=True, value=decoded(finish.value, self._app))
        if status == "cancelled":
            return seen._replace(over=True, revoked=True, error=TaskRevokedError("revoked"))
        if status == "failed" and finish.outcome == "failed":
            return seen._replace(over=True, error=runtime.of(self._app).codec.decode_failure(finish.value))
        if finish.outcome in ("ignored", "rejected"):
            error = StepsError(f"It ended without a result: its body raised {_RAISED[finish.outcome]}.")
            return seen._replace(over=True, error=error)
        return seen

    # -- cancelling -------------------------------------------------------------------------------------------------

    def cancel(self, details: Sequence[bytes]) -> None:
        """Revoke every task of these children that has not ended; open runs are cancelled, which cancels their children."""
        nodes = [node for detail in details for node in Plan.read(detail).nodes]
        for node in nodes:
            if node.durable or node.task not in self._app.tasks:
                try:
                    cancel_open_runs(self._app, node.id)
                except self._away() as error:  # the sweepers have its ticket
                    logger.warning("The child %s is cancelled and could not be published yet: %r", node.id, error)
        try:
            if nodes:
                self._app.control.revoke([node.id for node in nodes])
        except self._away() as error:
            logger.warning("The children %s could not be revoked: %r", [node.id for node in nodes][:10], error)


class EagerChildren(WorkerChildren):
    """Outside a worker a child is applied in this process, at once."""

    checks_backend = False

    def __init__(self, app: Celery) -> None:
        super().__init__(app)
        self._over: dict[str, Child] = {}

    def _apply(self, plan: Plan, signature: Signature) -> None:
        key, first = repr(plan.shape), plan.nodes[0]
        known = Child(True, over=True, task=first.task, task_id=first.id)
        with allow_join_result():
            try:
                self._over[key] = _eager(signature.apply(), known)
            except Exception as error:
                self._over[key] = known._replace(error=error)

    def look(self, details: Sequence[bytes]) -> list[Child]:
        plans = [Plan.read(detail) for detail in details]
        return [self._over.get(repr(plan.shape)) or Child(True, tuple(plan.first)) for plan in plans]

    def cancel(self, details: Sequence[bytes]) -> None:
        """What was applied has ended."""


def _metas(app: Celery, ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the result backend holds of these tasks: in one round trip where it has a command for that."""
    backend = app.backend
    if hasattr(backend, "mget") and len(ids) > 1:
        try:
            found = backend.mget([backend.get_key_for_task(id) for id in ids])
            return {id: backend.decode_result(data) for id, data in zip(ids, found, strict=True) if data}
        except NotImplementedError:
            pass
    return {id: backend.get_task_meta(id, cache=False) for id in ids}


def _stored(meta: dict[str, Any], known: _Known) -> _Known:
    state, result = meta["status"], meta["result"]
    if state == states.PENDING:
        return known
    if state == states.SUCCESS:
        return known._replace(seen=True, over=True, value=result)
    if state not in _BAD:
        return known._replace(seen=True)
    error = result if isinstance(result, Exception) else TaskRevokedError(str(result))
    if meta.get("traceback") and error.__cause__ is None:
        error.__cause__ = RecordedTraceback(f'\n"""\n{meta["traceback"]}"""')
    return known._replace(seen=True, over=True, error=error, revoked=state == states.REVOKED)


def _judged(plan: Plan, known: dict[str, _Known]) -> Child:
    """What its tasks say of a child: it has ended when all whose results count have, and failed when one has that matters."""
    once = all(known[node.id].once for node in plan.nodes)
    leaves = set(_leaves(plan.shape))
    if all(known[id].over and known[id].error is None for id in leaves):
        return Child(once, over=True, value=_value(plan.shape, known))
    # Of a chain or a chord what failed first says more than what could not run for it: those whose result counts come last.
    before = [node for node in reversed(plan.nodes) if node.id not in leaves]
    for node in [*before, *(node for node in plan.nodes if node.id in leaves)]:
        task = known[node.id]
        if task.error is not None:
            return Child(once, (), True, None, task.error, node.task, node.id, task.revoked)
    return Child(once, tuple(id for id in plan.first if not known[id].seen))


def _leaves(shape: Any) -> Iterator[str]:
    if isinstance(shape, str):
        yield shape
    else:
        for one in shape:
            yield from _leaves(one)


def _value(shape: Any, known: dict[str, _Known]) -> Any:
    return known[shape].value if isinstance(shape, str) else [_value(one, known) for one in shape]


def _eager(result: Any, known: Child) -> Child:
    if isinstance(result, GroupResult):
        each = [_eager(one, known) for one in result.results]
        failed = next((child for child in each if child.error is not None), None)
        return failed or known._replace(value=[child.value for child in each])
    if result.state == states.SUCCESS:
        return known._replace(value=result.result)
    error = result.result if isinstance(result.result, Exception) else StepsError(f"It ended as {result.state}.")
    return known._replace(error=error, task=getattr(result, "name", None) or known.task, task_id=result.id)
