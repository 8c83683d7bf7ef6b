"""Exceptions as plain values, and back: the same type with the same attributes, as far as these can be recorded.

A record only ever names a class. It is looked up among the modules that are imported already, running nothing, and
taken if it is an `Exception`; `__init__` is not called, since its parameters are not known.
"""

from __future__ import annotations

import sys
import traceback
import types
from typing import Any

from celery_steps.codec.values import CORRUPT, MAX_DEPTH, is_plain, pack_value
from celery_steps.errors import StepFailed, StepsError

_LONGEST_TEXT = 16_000
#: Exceptions that are attributes of exceptions are recorded so deep.
_DEEPEST = 4
_UNSET: Any = object()


class RecordedTraceback(StepsError):
    """The traceback of a recorded failure: the cause of the exception given back, so that it prints."""


def describe(exc: BaseException, depth: int = 0) -> dict[str, Any]:
    """What can be recorded of an exception. Attributes that cannot are named under `lost`, arguments become their repr.

    Attributes that are exceptions are described in their turn.
    """
    state = {name: value for name, value in _state(exc).items() if type(name) is str}
    attributes = {name: value for name, value in state.items() if _is_recordable(value)}
    inner = [name for name, value in state.items() if isinstance(value, Exception) and depth < _DEEPEST]
    record = {
        "type": f"{type(exc).__module__}:{type(exc).__qualname__}",
        "args": tuple(arg if _is_recordable(arg) else _safely(repr, arg) for arg in _args(exc)),
        "attributes": attributes,
        "lost": sorted(state.keys() - attributes.keys() - set(inner)),
        "message": _safely(str, exc),
        "traceback": _traceback_text(exc),
    }
    if inner:
        record["errors"] = {name: describe(state[name], depth + 1) for name in inner}
    return record


def shorten(record: dict[str, Any]) -> dict[str, Any]:
    """The same failure where its values are too large: type, message and the end of the traceback."""
    message = record["message"][:1_000]
    lost = sorted({*record["lost"], *record["attributes"]})[:50]
    text = record["traceback"][-4_000:]
    if "errors" in record:
        record = {**record, "errors": {name: shorten(inner) for name, inner in record["errors"].items()}}
    return {**record, "args": (message,), "attributes": {}, "lost": lost, "message": message, "traceback": text}


def rebuild_failure(record: dict[str, Any]) -> Exception:
    """The exception that `describe` described, or StepFailed where its class cannot be found or made.

    Its `__cause__` is a RecordedTraceback.
    """
    try:
        made = _made(record)
    except (*CORRUPT, AttributeError):
        made = None
    if made is None:
        made = StepFailed(f"{record['type'].replace(':', '.')}: {record['message']}")
    text = record["traceback"]
    if record["lost"]:
        text += f"(not recorded: {', '.join(record['lost'])})\n"
    # Past any __setattr__ of the class, which may refuse or do something.
    BaseException.__setattr__(made, "__cause__", RecordedTraceback(f'\n"""\n{text}"""'))
    return made


def _made(record: dict[str, Any]) -> Exception | None:
    cls = _find(record["type"])
    if cls is None:
        return None
    native: Any = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    made = native.__new__(cls)
    if type(made) is not cls:
        return None
    BaseException.__setattr__(made, "args", record["args"])
    members = _members(cls)
    for name, value in record["attributes"].items():
        if name not in members:
            made.__dict__[name] = value
        # An OSError prints a filename of None once that has been set.
        elif value is not None or _read(members[name], made) is not None:
            members[name].__set__(made, value)
    for name, inner in record.get("errors", {}).items():
        if name not in members:
            made.__dict__[name] = rebuild_failure(inner)
    return made  # type: ignore[no-any-return]


def _find(path: str) -> type[Exception] | None:
    module, _, name = path.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # Not getattr: a module's or a metaclass's __getattr__ may import and run things.
        found = vars(found).get(part) if isinstance(found, types.ModuleType | type) else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _members(cls: type) -> dict[str, Any]:
    """Where exceptions keep what is not in `__dict__`: errno of an OSError, `__slots__`."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType) and not name.startswith("__")
    }


def _state(exc: BaseException) -> dict[str, Any]:
    found = {name: _read(member, exc) for name, member in _members(type(exc)).items()}
    return vars(exc) | {name: value for name, value in found.items() if value is not _UNSET}


def _read(member: Any, exc: BaseException) -> Any:
    try:
        return member.__get__(exc)
    except AttributeError:  # a slot never filled
        return _UNSET


def _args(exc: BaseException) -> tuple[Any, ...]:
    # Not exc.args: the class may have an attribute of that name.
    args: Any = vars(BaseException)["args"].__get__(exc)
    return args if isinstance(args, tuple) else ()


def _is_recordable(value: Any) -> bool:
    try:
        # Two levels less: it stands inside a tuple or dict inside the record.
        return is_plain(value, MAX_DEPTH - 2) and bool(pack_value(value))
    except CORRUPT:
        return False


def _safely(text_of: Any, value: Any) -> str:
    try:
        return str.__str__(text_of(value))[:_LONGEST_TEXT]
    except Exception as error:  # somebody's __str__ or __repr__
        return f"<{type(value).__qualname__}, whose {text_of.__name__}() raises {type(error).__qualname__}>"


def _traceback_text(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))[-_LONGEST_TEXT:]
    except Exception as error:  # somebody's source loader, notes or attributes
        return f"<the traceback cannot be formatted: {type(error).__qualname__}>\n"
