"""Settings: read from a Celery app, checked once, frozen."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery_steps.errors import SettingsError

if TYPE_CHECKING:
    from celery import Celery

    from celery_steps.codec import Transform

_SCHEMES = ("redis", "rediss", "unix")
_LONGEST = 100 * 365 * 86_400.0


@dataclass(frozen=True)
class Settings:
    """The `steps_*` settings of one Celery app. Times in seconds, sizes in bytes."""

    # Not in the repr: the URL and the options can hold passwords, a codec can hold keys.
    backend: str = field(repr=False)
    redis_options: dict[str, Any] = field(default_factory=dict, repr=False)
    key_prefix: str = "steps"
    partitions: int = 16
    lease_ttl: float = 30.0
    retention: float = 7 * 86_400.0
    sweep_interval: float = 1.0
    max_crashes: int = 5
    max_result_size: int = 1024 * 1024
    record_input: bool = True
    codec: Transform | None = field(default=None, repr=False)

    @classmethod
    def of(cls, app: Celery) -> Settings:
        """Read and check the settings of `app`.

        They are `app.conf.steps_*`, or `CELERY_STEPS_*` where the app is configured with `namespace="CELERY"`.
        Raises SettingsError for an unknown or wrong setting, and where no Redis can be found to keep the journals in.
        """
        conf = app.conf
        conf.get("steps_backend")  # an app's configuration is read at the first look
        _refuse_unknown(conf, conf.prefix or "")
        values: dict[str, Any] = {}
        for name, check in _CHECKS.items():
            if f"steps_{name}" in conf:
                values[name] = check(f"steps_{name}", conf[f"steps_{name}"])
        if values.get("backend") is None:
            values["backend"] = _backend_of_celery(conf)
        return cls(**values)


def masked(text: str) -> str:
    """Return `text`, a URL perhaps, without what can be a password."""
    # To the last @: a password may contain one itself.
    text = re.sub(r"://.*@", "://***@", text, flags=re.DOTALL)
    return re.sub(r"((?:password|username)=)[^&#\s'\"]*", r"\1***", text, flags=re.IGNORECASE)


def _refuse_unknown(keys: Iterable[str], prefix: str) -> None:
    valid = [f"steps_{f.name}" for f in fields(Settings)]
    for key in sorted(set(keys)):
        in_namespace = bool(prefix) and key.startswith(prefix)
        plain = key[len(prefix) :].lower() if in_namespace else key
        if plain.startswith("steps_") and plain not in valid:
            nearest = difflib.get_close_matches(plain, valid, n=1, cutoff=0.0)[0]
            if in_namespace:
                nearest = f"{prefix}{nearest.upper()}" if prefix.isupper() else f"{prefix}{nearest}"
            raise SettingsError(f"unknown setting {key}: did you mean {nearest}?")


def _backend_of_celery(conf: Any) -> str:
    looked_at = []
    for name, value in (("result_backend", conf.result_backend), ("broker_url", conf.broker_url)):
        # Several brokers stand for fail-over: every process must use the same one.
        first = value[0] if isinstance(value, (list, tuple)) and value else value
        url = str(first or "").split(";")[0]
        if url.partition("://")[0] in (*_SCHEMES, "redis+socket"):
            return _url(name, url)
        looked_at.append(f"{name} is {masked(url)!r}" if url else f"{name} is not set")
    raise SettingsError(
        f"there is no Redis to keep journals in ({', '.join(looked_at)}): "
        'set steps_backend to a redis://, rediss:// or unix:// URL, such as "redis://localhost:6379/2"'
    )


def _wrong(name: str, allowed: str, value: object) -> SettingsError:
    return SettingsError(f"{name} must be {allowed}, not {masked(repr(value))}")


def _url(name: str, value: object) -> str:
    allowed = "a redis://, rediss:// or unix:// URL whose database is a number"
    try:
        url = urlsplit(value) if isinstance(value, str) else urlsplit("")
        url.port  # noqa: B018 - raises ValueError for a port that is no number
    except ValueError:
        raise _wrong(name, allowed, value) from None
    scheme = "unix" if url.scheme == "redis+socket" else url.scheme
    query = [_option_for_redis_py(key, text) for key, text in parse_qsl(url.query, keep_blank_values=True)]
    database = dict(query).get("db") or ("" if scheme == "unix" else url.path.strip("/"))
    # redis-py takes a database that it cannot read for 0.
    if scheme not in _SCHEMES or not re.fullmatch(r"[0-9]*", database) or (scheme == "unix" and not url.path):
        raise _wrong(name, allowed, value)
    # urlunsplit would drop the // of a URL without host.
    return f"{scheme}://{url.netloc}{url.path}" + (f"?{urlencode(query)}" if query else "")


def _option_for_redis_py(key: str, text: str) -> tuple[str, str]:
    if key == "virtual_host":  # Celery's word for the database of redis+socket://
        return "db", text.strip("/")
    if key == "ssl_cert_reqs":  # Celery writes CERT_REQUIRED, redis-py required
        return key, text.lower().removeprefix("cert_")
    return key, text


def _backend(name: str, value: object) -> str | None:
    return None if value is None else _url(name, value)


def _options(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        # The value itself may hold passwords.
        raise SettingsError(f"{name} must be a dict of redis-py's options by name, not a {type(value).__name__}")
    return dict(value)


def _prefix(name: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_.:-]+", value):
        raise _wrong(name, "a text of letters, digits and _ . : -", value)
    return value


def _integer(least: int, most: int) -> Callable[[str, object], int]:
    def check(name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(name, f"a whole number from {least} to {most}", value)
        return value

    return check


def _duration(name: str, value: object) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    # Redis counts in milliseconds.
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0.001 <= seconds <= _LONGEST:
        return float(seconds)
    raise _wrong(name, "a number of seconds or a timedelta, from 0.001 s to 100 years", value)


def _boolean(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, "True or False", value)
    return value


def _codec(name: str, value: object) -> Transform | None:
    if value is None:
        return None
    allowed = 'None or an import path such as "shop.security:codec"'
    if not isinstance(value, str):
        raise _wrong(name, allowed, value)
    module, _, attribute = value.partition(":") if ":" in value else value.rpartition(".")
    try:
        codec = getattr(importlib.import_module(module), attribute)
        codec = codec() if isinstance(codec, type) else codec
    except Exception as exc:
        raise SettingsError(f"{name} must be {allowed}: {value!r} cannot be loaded ({type(exc).__name__}: {exc})") from exc
    if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
        raise SettingsError(f"{name} must name an object with encode() and decode(): {value!r} has not both")
    loaded: Transform = codec
    return loaded


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "backend": _backend,
    "redis_options": _options,
    "key_prefix": _prefix,
    "partitions": _integer(1, 16_384),
    "lease_ttl": _duration,
    "retention": _duration,
    "sweep_interval": _duration,
    "max_crashes": _integer(1, 1_000_000),
    "max_result_size": _integer(1, 512 * 1024 * 1024),
    "record_input": _boolean,
    "codec": _codec,
}
