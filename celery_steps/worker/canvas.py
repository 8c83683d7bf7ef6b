"""What is sent as a child: a task or a canvas, with every id of it fixed, as it is kept in the parent's journal."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple
from uuid import NAMESPACE_OID, uuid5

from celery import Celery
from celery.app.task import Task
from celery.backends.base import DisabledBackend
from celery.canvas import Signature, _chain, _chord, group, maybe_signature
from celery.result import GroupResult
from kombu import serialization

from celery_steps.codec import pack, unpack
from celery_steps.engine.child import Asked, Frozen, Parent
from celery_steps.engine.identity import check_namespace
from celery_steps.errors import SettingsError, StepsError
from celery_steps.worker import messages

#: Header of a child whose result counts: namespace, run and wait that are to hear of its end.
PARENT = "steps_parent"
#: Header of every task of a child.
CHILD = "steps_child"


class Node(NamedTuple):
    """One task of a child."""

    id: str
    task: str
    namespace: str  # "": not known before it is sent
    durable: bool


class Plan(NamedTuple):
    """A child as it is kept."""

    content_type: str
    encoding: str
    signature: bytes
    first: list[str]  # the ids of the tasks that are sent; others follow on them
    shape: Any  # the id whose result counts, or a list of shapes
    nodes: list[Node]

    @classmethod
    def read(cls, detail: bytes) -> Plan:
        plan = cls(*unpack(detail))
        return plan._replace(nodes=[Node(*node) for node in plan.nodes])


def freeze(app: Celery, asked: Asked, id: str, parent: Parent, said_by: str) -> Frozen:
    """Check that it can be sent, and fix every id of it. StepsError names what cannot."""
    signature = _signature(app, asked, said_by)
    tasks = list(_tasks(signature))
    for task in tasks:
        _check(app, task, said_by)
        task.options["headers"] = {**(task.options.get("headers") or {}), CHILD: True}
    for tail in _tails(signature):
        tail.options["headers"][PARENT] = list(parent)
    for head in heads(signature):
        _fix_namespace(app, head)
    try:
        result = signature.freeze(id)
    except Exception as error:
        raise StepsError(f"{said_by}: {_name(signature)} cannot be sent: {error!r}") from error
    name, frozen = _name(signature), _serialized(app, signature, tasks, said_by)
    nodes = [_node(app, known, id) for id, known in _ids(result, signature)]
    first = [task.options["task_id"] for task in heads(signature)]
    return Frozen(name, pack([*frozen, first, _shape(result), [list(node) for node in nodes]]))


def loaded(app: Celery, plan: Plan, missing: Iterable[str] = ()) -> Signature:
    """What is to be sent, with the ids that it has: once more it is the same child. Of a group only what is missing, if said."""
    payload = plan.content_type, plan.encoding, plan.signature
    accept = messages.accepted(app, (app.tasks.get(node.task) for node in plan.nodes))
    signature = _whole(app, messages.loaded("What is recorded of a child", payload, accept))
    if missing and isinstance(signature, group):
        signature.tasks = [one for one in signature.tasks if any(task.options["task_id"] in missing for task in heads(one))]
    return signature


def _signature(app: Celery, asked: Asked, said_by: str) -> Signature:
    """A copy of what is to be sent, with its arguments and options."""
    task, options = asked.task, dict(asked.options)
    for name, why in _REFUSED.items():
        if name in options:
            raise StepsError(f"{said_by}: {name} cannot be given, {why}.")
    args = tuple(asked.args or ())
    kwargs = dict(asked.kwargs or {})
    if isinstance(task, str):
        if task not in app.tasks and not _is_routed(options):
            raise StepsError(
                f"{said_by}: no task named {task!r} is registered here. Import the module that defines it, or give queue= if "
                "workers of another app have it."
            )
        task = app.signature(task)
    elif isinstance(task, Task):
        task = task.s()
    if not isinstance(task, Signature):
        raise StepsError(
            f"{said_by}: the task must be a task, its name, a signature or a canvas (chain, group, chord), not {task!r:.80}."
        )
    copy = _whole(app, task.clone(args, kwargs))
    if "namespace" in options and isinstance(copy, (_chain, _chord, group)):
        raise StepsError(f"{said_by}: namespace is for one task: give it to a signature, .set(namespace=...), of {_name(copy)}.")
    return copy.set(**options) if options else copy


_REFUSED = {
    "task_id": "the child's id is made of the step, so that it is the same however often it is sent",
    "ignore_result": "the child's result is what the step returns",
    "producer": "it cannot be kept to send the child again",
    "connection": "it cannot be kept to send the child again",
    "publisher": "it cannot be kept to send the child again",
}


def _is_routed(options: dict[str, Any]) -> bool:
    return any(options.get(name) for name in ("queue", "exchange", "routing_key"))


def _whole(app: Celery, signature: Any) -> Signature:
    """A signature whose parts, at every depth, are signatures of this app and not dicts or generators."""
    signature = maybe_signature(signature, app=app)
    signature._app = app
    if isinstance(signature, _chord):
        body = signature.body = _whole(app, signature.body)
        header = signature.tasks if isinstance(signature.tasks, group) else group(signature.tasks, app=app)
        signature.tasks = _whole(app, header)
        known = next(_tails(body)).options.get("task_id")
        if known:  # a chord forgets the id of its header, by which its members are counted
            signature.options["task_id"] = signature.tasks.options["task_id"] = known
    elif isinstance(signature, (_chain, group)):
        signature.tasks = [_whole(app, task) for task in signature.tasks]
    return signature


@contextmanager
def ids_fixed() -> Iterator[None]:
    """What is sent in here has the same ids each time, also the groups that Celery makes of chords' headers meanwhile."""
    token = _fixed.set(True)
    try:
        yield
    finally:
        _fixed.reset(token)


_fixed: ContextVar[bool] = ContextVar("celery_steps_ids_fixed", default=False)
_freeze_group = group.freeze


@functools.wraps(_freeze_group)
def _freeze(self: group, *args: Any, **options: Any) -> Any:
    # With an id of Celery's own, members of a chord sent once more would be counted in another group than those seen already.
    if _fixed.get() and "task_id" not in self.options:
        tail = next(_tails(self), None)  # no header within this one ends with the same task
        if tail is not None and "task_id" in tail.options:
            self.options["task_id"] = str(uuid5(NAMESPACE_OID, f"{tail.options['task_id']}/header"))
    return _freeze_group(self, *args, **options)


group.freeze = _freeze


def _tails(signature: Signature) -> Iterator[Signature]:
    """The tasks whose results are the child's."""
    if isinstance(signature, _chain):
        yield from _tails(signature.tasks[-1])
    elif isinstance(signature, _chord):
        yield from _tails(signature.body)
    elif isinstance(signature, group):
        for task in signature.tasks:
            yield from _tails(task)
    else:
        yield signature


def heads(signature: Signature) -> Iterator[Signature]:
    """The tasks that are sent, on whose ends the others follow."""
    if isinstance(signature, _chain):
        yield from heads(signature.tasks[0])
    elif isinstance(signature, _chord):
        yield from heads(signature.tasks)
    elif isinstance(signature, group):
        for task in signature.tasks:
            yield from heads(task)
    else:
        yield signature


def _tasks(signature: Signature) -> Iterator[Signature]:
    """Every task of it."""
    if isinstance(signature, _chord):
        yield from _tasks(signature.tasks)
        yield from _tasks(signature.body)
    elif isinstance(signature, (_chain, group)):
        for task in signature.tasks:
            yield from _tasks(task)
    else:
        yield signature


def _check(app: Celery, signature: Signature, said_by: str) -> None:
    name = signature.task
    task = app.tasks.get(name)
    if task is None and not _is_routed(signature.options):
        raise StepsError(
            f"{said_by}: no task named {name!r} is registered here. Import the module that defines it, or give its signature a "
            "queue if workers of another app have it."
        )
    ignored = signature.options.get("ignore_result")
    if ignored or (ignored is None and task is not None and task.ignore_result):
        raise StepsError(
            f"{said_by}: {name} ignores its result, so nobody could tell when it ends. Set ignore_result=False on it, or send it "
            "with apply_async inside a step.run."
        )


def check_backend(app: Celery, said_by: str) -> None:
    backend = app.backend
    if isinstance(backend, DisabledBackend) or type(backend).__module__ == "celery.backends.rpc":
        raise SettingsError(
            f"{said_by}: the results of children cannot be read from {type(backend).__name__}. Set result_backend to Redis or a "
            "database."
        )


def _fix_namespace(app: Celery, signature: Signature) -> None:
    """The namespace of a durable task that is sent is fixed with it, and travels in its header."""
    given = signature.options.pop("namespace", None)
    task = app.tasks.get(signature.task)
    headers = signature.options.get("headers") or {}
    if given is not None:
        check_namespace(given, f"The namespace for {signature.task}")
    elif is_durable(task) and messages.NAMESPACE not in headers:
        given = task.namespace_for(signature.args, signature.kwargs)
    if given is not None:
        signature.options["headers"] = {**headers, messages.NAMESPACE: given}


def is_durable(task: Any) -> bool:
    return hasattr(task, "namespace_for")


def _serialized(app: Celery, signature: Signature, tasks: list[Signature], said_by: str) -> tuple[str, str, bytes]:
    serializer = app.conf.task_serializer
    for task in tasks:  # one that wants another serializer may have arguments that only that can take
        registered = app.tasks.get(task.task)
        serializer = task.options.get("serializer") or (registered and registered.serializer) or serializer
    try:
        content_type, encoding, data = serialization.dumps(dict(signature), serializer=serializer)
    except Exception as error:
        raise StepsError(
            f"{said_by}: {_name(signature)} cannot be sent, as {serializer} cannot write its arguments or options: {error}"
        ) from error
    readable = messages.accepted(app, (app.tasks.get(task.task) for task in tasks))
    if content_type not in serialization.prepare_accept_content(readable):  # it is kept, and read to be sent
        raise StepsError(
            f"{said_by}: {_name(signature)} cannot be sent, as this app does not accept what {serializer} writes. "
            "Add it to accept_content."
        )
    return content_type, encoding, data.encode() if isinstance(data, str) else data


def _name(task: Any) -> str:
    if isinstance(task, str):
        return task
    if isinstance(task, _chord):
        return f"chord({_listed(task.tasks.tasks if isinstance(task.tasks, group) else task.tasks)}) of {_name(task.body)}"
    if isinstance(task, (_chain, group)):
        return f"{'group' if isinstance(task, group) else 'chain'}({_listed(task.tasks)})"
    return str(task.task if isinstance(task, Signature) else getattr(task, "name", task))


def _listed(tasks: Iterable[Signature]) -> str:
    names = [_name(task) for task in tasks]
    return ", ".join(names if len(names) <= 5 else [*names[:4], f"… {len(names)} in all"])


def _ids(result: Any, signature: Signature) -> Iterator[tuple[str, Signature | None]]:
    """Every id of the child, and the task that has it, as far as that can be told."""
    known = {task.options.get("task_id"): task for task in _tasks(signature)}
    seen = set()
    todo = [result]
    while todo:
        one = todo.pop(0)
        if one is None or one.id in seen:
            continue
        seen.add(one.id)
        if isinstance(one, GroupResult):
            todo += one.results
        else:
            yield one.id, known.get(one.id)
        todo.append(one.parent)


def _shape(result: Any) -> Any:
    return [_shape(one) for one in result.results] if isinstance(result, GroupResult) else result.id


def _node(app: Celery, signature: Signature | None, id: str) -> Node:
    if signature is None:
        return Node(id, "", "", False)
    namespace = (signature.options.get("headers") or {}).get(messages.NAMESPACE) or ""
    return Node(id, signature.task, namespace, is_durable(app.tasks.get(signature.task)))
