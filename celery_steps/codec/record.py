"""What stands in a record: a version byte, then the value, as it is or through the transform that `steps_codec` names.

| first byte | then |
| --- | --- |
| 1 | the value (values.py) |
| 2 | length of a key id (one byte, 0 today), the key id, the transformed value |
"""

from __future__ import annotations

from typing import Any, Protocol

from celery_steps.codec.failures import describe, rebuild_failure, shorten
from celery_steps.codec.hints import alternatives
from celery_steps.codec.lower import lower
from celery_steps.codec.rebuild import rebuild
from celery_steps.codec.values import CORRUPT, is_plain, pack_value, unpack_value
from celery_steps.errors import ResultError

_PLAIN = b"\x01"
_TRANSFORMED = b"\x02\x00"


class Transform(Protocol):
    """What `steps_codec` names: bytes to bytes, for encryption or compression.

    `namespace`, `key` and `sequence` say where the record stands. A cipher that authenticates them as associated data
    refuses a record that somebody moved to another place.
    """

    def encode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        """The bytes to store. What it raises leaves `step.run` unchanged."""
        ...

    def decode(self, data: bytes, *, namespace: str, key: str, sequence: int) -> bytes:
        """The bytes given to `encode`. What it raises makes a ResultError; an OSError passes unchanged."""
        ...


class Codec:
    """Values to bytes and back: equal in value and type at every depth, or a ResultError. Never pickle."""

    def __init__(self, transform: Transform | None = None, max_size: int = 1 << 20) -> None:
        """Take the transform of `steps_codec` and the most bytes that a record may have."""
        self._transform = transform
        self._max_size = max_size

    def encode(
        self,
        value: Any,
        *,
        where: str = "result",
        hint: Any = None,
        namespace: str = "",
        key: str = "",
        sequence: int = 0,
        limit: bool = True,
    ) -> bytes:
        """Write a value.

        `where` is what errors call it. `hint` is the type or annotation that names the classes of dataclasses, named
        tuples, Enums and pydantic models in it; with `PLAIN` any such object is taken. Raises ResultError naming the
        place of what cannot be recorded; and, unless `limit` is false, for more bytes than the limit.
        """
        try:
            payload = pack_value(value) if is_plain(value) else None
        except CORRUPT:
            payload = None
        if payload is None:
            # Slower: finds out what to lower, and says where it fails.
            payload = pack_value(lower(value, alternatives(hint), where))
        if self._transform is None:
            data = _PLAIN + payload
        else:
            data = _TRANSFORMED + self._transform.encode(payload, namespace=namespace, key=key, sequence=sequence)
        if limit and len(data) > self._max_size:
            raise ResultError(
                f"{where} takes {len(data):,} bytes, more than the {self._max_size:,} of steps_max_result_size: "
                "store it elsewhere and record where, or raise the setting"
            )
        return data

    def decode(self, data: bytes, *, hint: Any = None, namespace: str = "", key: str = "", sequence: int = 0) -> Any:
        """Read a value back, its objects in the classes that `hint` names; with `PLAIN` they come as dicts.

        Raises ResultError naming the record for damaged bytes, for bytes of a newer version, and where the
        configuration or the hint is not the one that it was written with.
        """
        try:
            if self._transform is None and data[:1] == _PLAIN:
                value = unpack_value(data[1:])
            else:
                value = unpack_value(self._decoded(data, namespace=namespace, key=key, sequence=sequence))
            return value if is_plain(value) else rebuild(value, alternatives(hint))
        except (*CORRUPT, AttributeError, ResultError) as error:
            raise ResultError(f"{_record_text(namespace, key, sequence)} cannot be read: {error}") from error

    def moved(self, data: bytes, old: dict[str, Any], new: dict[str, Any]) -> bytes:
        """The same record for another place: `old` and `new` are the namespace, key and sequence that its transform is given."""
        if self._transform is None:
            return data
        return _TRANSFORMED + self._transform.encode(self._decoded(data, **old), **new)

    def encode_failure(self, exc: BaseException, *, namespace: str = "", key: str = "", sequence: int = 0) -> bytes:
        """Write an exception: its class's name, args, attributes, message and traceback text.

        What cannot be recorded is left out and named. Raises nothing but what the transform raises.
        """
        record = describe(exc)
        where = type(exc).__qualname__
        if len(pack_value(record)) > self._max_size // 2:
            record = shorten(record)
        return self.encode(record, where=where, namespace=namespace, key=key, sequence=sequence, limit=False)

    def decode_failure(self, data: bytes, *, namespace: str = "", key: str = "", sequence: int = 0) -> Exception:
        """Read an exception back, to be raised: of its own class, or StepFailed where that is not to be had.

        Raises ResultError like `decode`.
        """
        record = self.decode(data, namespace=namespace, key=key, sequence=sequence)
        try:
            return rebuild_failure(record)
        except (*CORRUPT, AttributeError) as error:
            raise ResultError(f"{_record_text(namespace, key, sequence)} is not a failure: {error}") from error

    def _decoded(self, data: bytes, **place: Any) -> bytes:
        # What it is comes from the configuration: a record that could choose would undo the authentication.
        if data[:1] == _PLAIN:
            raise ValueError("it was written without steps_codec, which is set: finish such runs before setting it")
        if data[:1] != _TRANSFORMED[:1]:
            newer = data[:1] > _TRANSFORMED[:1]
            raise ValueError("written by a newer version of celery-steps: upgrade this worker" if newer else "damaged")
        if self._transform is None:
            raise ValueError("it was written with steps_codec: set that")
        if data[1:2] != _TRANSFORMED[1:]:
            raise ValueError("it has a key id, written by a newer version of celery-steps: upgrade this worker")
        try:
            return self._transform.decode(data[2:], **place)
        except Exception as error:
            # Not about the bytes: a key server out of reach, or Celery's soft time limit (celery is not imported here).
            if isinstance(error, OSError) or type(error).__name__ == "SoftTimeLimitExceeded":
                raise
            raise ValueError(f"steps_codec does not accept it: {error!r}") from error


def _record_text(namespace: str, key: str, sequence: int) -> str:
    if not key:
        return f"a record in namespace {namespace!r}" if namespace else "a record"
    return f"the record of step {key!r} (occurrence {sequence}) in namespace {namespace!r}"
