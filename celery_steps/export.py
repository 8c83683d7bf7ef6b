"""One run as a JSON document: complete enough to replay it against code, readable for people."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from celery import Celery

from celery_steps.codec import PLAIN, Codec
from celery_steps.engine import entries as fmt
from celery_steps.engine.event import event_data
from celery_steps.errors import JournalLost, StepsError
from celery_steps.lookup import Lookup
from celery_steps.past import at, line_of
from celery_steps.readable import as_json
from celery_steps.store.replies import Entry, Event
from celery_steps.worker import messages
from celery_steps.worker.result import decoded

FORMAT = 1

_WARNING = (
    "Arguments, inputs, results, events and log lines are in this document as they were recorded, secrets too, readable even "
    "where steps_codec encrypts them in Redis."
)

#: What the fields of an entry are called, by its kind.
_FIELDS = {
    "attempt": ("owner", "run", "task", "call_hash", "retries"),
    "borrow": ("owner", "run", "task", "call_hash", "retries"),
    "start": ("key", "sequence"),
    "intent": ("key", "sequence", "input_hash", "rollback"),
    "tried": ("key", "sequence", "next_try_at", "error"),
    "resolve": ("run", "key", "sequence", "how", "value"),
    "rollback": ("run", "outcome", "error"),
    "undo": ("key", "sequence", "ok", "error"),
    "reopen": ("run", "done_anew", "rollback_goes_on"),
    "retry": ("run", "retries", "reopened", "failed"),
    "suspend": ("run", "waits_for", "wake_at"),
    "finish": ("run", "outcome", "value"),
}


def export(lookup: Lookup, name: str) -> dict[str, Any]:
    """The one run that a name means, as plain JSON types. RunRefused if there is none or several; JournalLost."""
    run = lookup.get(name)
    namespace, ids = lookup.find(name)
    id = max(ids, key=lambda id: id.nesting)
    entries = list(lookup.store.entries(namespace))
    if not entries:
        raise JournalLost(f"The journal of {name!r} is gone from Redis: there is nothing to export.")
    binding = lookup.store.bind(namespace, id, "", "")
    lines = [(line, raw) for line, raw in _lines(lookup, namespace) if line.run_id in (run.id, "")]
    return {
        "format": FORMAT,
        "made_by": f"celery-steps {_version()}".strip(),
        "made_at": at(lookup.index.now()).isoformat(),
        "warning": _WARNING,
        "run": {**_form(run), "ref": str(id)},
        "call": _call(lookup._app, lookup.store.message(namespace, id)),
        "journal": [_entry(entry, namespace, lookup) for entry in entries],
        "inbox": [_event(event, lookup.codec) for event in binding.inbox("")],
        "log": [{**_form(line), "data_bytes": _bytes(raw)} for line, raw in reversed(lines)],
    }


def _version() -> str:
    try:
        return version("celery-steps")
    except PackageNotFoundError:  # run from its source
        return ""


def entries_of(document: Any) -> list[Entry]:
    """The journal of an exported run, byte for byte. StepsError for what is no such document."""
    try:
        if document["format"] != FORMAT:
            raise StepsError(
                f"The export has format {document['format']!r}, this celery-steps reads {FORMAT}: upgrade it to read this file."
            )
        return [Entry(entry["id"], entry["kind"], base64.b64decode(entry["bytes"])) for entry in document["journal"]]
    except (KeyError, TypeError, ValueError) as error:
        raise StepsError(f"This is no exported run ({error!r}): make one with `celery -A proj steps export NAME`.") from error


def message_of(document: Any) -> bytes | None:
    """The stored Celery message of an exported run, None where Redis had it no more."""
    try:
        call = document.get("call")
        return None if not call else base64.b64decode(call["bytes"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StepsError(f"This is no exported run ({error!r}): make one with `celery -A proj steps export NAME`.") from error


def _lines(lookup: Lookup, namespace: str) -> list[tuple[Any, bytes]]:
    codec = lookup.codec
    return [(line_of(namespace, id, said, data, codec), data) for id, said, data in lookup.index.lines(namespace)]


def _bytes(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _call(app: Celery, message: bytes | None) -> dict[str, Any] | None:
    if message is None:
        return None
    form: dict[str, Any] = {"bytes": _bytes(message)}
    try:
        task, args, kwargs, options = messages.opened(app, message)
        return {"task": task, "args": as_json(list(args)), "kwargs": as_json(dict(kwargs)), "options": as_json(options), **form}
    except Exception as error:  # of a serializer that this process does not know, say
        return {"unreadable": str(error), **form}


def _entry(entry: Entry, namespace: str, lookup: Lookup) -> dict[str, Any]:
    form: dict[str, Any] = {"id": entry.id, "kind": entry.kind}
    try:
        form |= _says(entry, namespace, lookup)
    except Exception as error:  # damaged, or of another steps_codec: its bytes are there all the same
        form["unreadable"] = str(error) or type(error).__name__
    return {**form, "bytes": _bytes(entry.data)}


def _says(entry: Entry, namespace: str, lookup: Lookup) -> dict[str, Any]:
    codec = lookup.codec
    if entry.kind == "step":
        return _step(fmt.read_step(entry), namespace, codec)
    if entry.kind == "wait":
        wait = fmt.read_wait(entry)
        until = at(wait.deadline).isoformat() if wait.deadline else None
        return {"key": wait.key, "sequence": wait.sequence, "verb": wait.verb, "about": wait.about, "until": until}
    given = fmt.read(entry)
    says = dict(zip(_FIELDS.get(entry.kind, ("run", "reason")), given, strict=False))
    for name, show in _SHOWN.items():
        if name in says:
            says[name] = show(says[name])
    where: dict[str, Any] = {name: says[name] for name in ("key", "sequence") if name in says}
    if says.get("error"):
        says["error"] = _form(codec.decode_failure(says["error"], namespace=namespace, **where))
    if says.get("value"):
        failed = says.get("outcome", says.get("how")) == "failed"
        says["value"] = _outcome(entry.kind, says["value"], failed, {"namespace": namespace, **where}, lookup)
    return {name: as_json(value) if isinstance(value, bytes) else value for name, value in says.items()}


def _outcome(kind: str, value: bytes, failed: bool, where: dict[str, Any], lookup: Lookup) -> Any:
    codec = lookup.codec
    if failed:
        return _form(codec.decode_failure(value, **where) if kind == "resolve" else codec.decode_failure(value))
    return as_json(codec.decode(value, hint=PLAIN, **where) if kind == "resolve" else decoded(value, lookup._app))


def _step(step: fmt.Step, namespace: str, codec: Codec) -> dict[str, Any]:
    where: dict[str, Any] = {"namespace": namespace, "key": step.key, "sequence": step.sequence}
    form: dict[str, Any] = {"key": step.key, "sequence": step.sequence, "verb": step.verb, "ok": step.ok}
    form["input_hash"] = fmt.hash_text(step.digest)
    form["input"] = None if step.input is None else as_json(codec.decode(step.input, hint=PLAIN, **where))
    if step.ok:
        form["result"] = as_json(codec.decode(step.value, hint=PLAIN, **where))
    else:
        form["error"] = _form(codec.decode_failure(step.value, **where))
    if step.reference is not None:
        form["reference"] = as_json(codec.decode(step.reference, hint=PLAIN, **where))
    return {**form, "occurred_at": at(step.occurred_at_ms).isoformat(), "took_ms": step.took, "rollback": step.undo}


def _event(event: Event, codec: Codec) -> dict[str, Any]:
    form: dict[str, Any] = {"id": event.id, "event": event.name, "to": event.to, "event_id": event.event_id}
    try:
        form["data"] = as_json(event_data(codec, event.name, event.data)) if event.data else None
    except Exception as error:
        form["unreadable"] = str(error) or type(error).__name__
    return {**form, "bytes": _bytes(event.data)}


def _form(value: Any) -> Any:
    """What `Runs` hands out, as JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, BaseException):
        return {"type": f"{type(value).__module__}.{type(value).__qualname__}", "message": _text(value)}
    if isinstance(value, tuple):
        return [_form(item) for item in value]
    if is_dataclass(value):
        return {field.name: _form(getattr(value, field.name)) for field in fields(value)}
    return as_json(value)


def _text(error: BaseException) -> str:
    try:
        return str.__str__(str(error))
    except Exception as trouble:  # its __str__ may be anybody's
        return f"<its text cannot be had: {type(trouble).__qualname__}>"


def _when(ms: int) -> str | None:
    return None if ms >= fmt.NEVER // 2 else at(ms).isoformat()


_SHOWN: dict[str, Callable[[Any], Any]] = {
    "call_hash": lambda digest: None if digest is None else fmt.hash_text(digest),
    "input_hash": fmt.hash_text,
    "next_try_at": _when,
    "wake_at": _when,
}
