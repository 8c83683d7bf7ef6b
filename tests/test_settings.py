"""The settings of an app: where they come from, what they may be, and what an error says."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery

from celery_steps.errors import SettingsError
from celery_steps.settings import Settings, masked

REDIS = "redis://localhost:6379/2"


def app_with(**conf: Any) -> Celery:
    app = Celery("shop", set_as_current=False)
    app.conf.update(conf)
    return app


class ReversingCodec:
    def encode(self, data: bytes, **where: Any) -> bytes:
        return data[::-1]

    def decode(self, data: bytes, **where: Any) -> bytes:
        return data[::-1]


codec_object = ReversingCodec()


def test_the_defaults_are_those_of_the_manual() -> None:
    settings = Settings.of(app_with(steps_backend=REDIS))
    assert settings == Settings(
        backend=REDIS,
        redis_options={},
        key_prefix="steps",
        partitions=16,
        lease_ttl=30.0,
        retention=604_800.0,
        sweep_interval=1.0,
        max_crashes=5,
        max_result_size=1_048_576,
        record_input=True,
        codec=None,
    )


@pytest.mark.parametrize("late", [False, True])
def test_settings_are_read_from_a_namespace_as_django_projects_have_it(late: bool) -> None:
    app = Celery("shop", set_as_current=False)
    if late:
        assert app.conf.task_default_queue == "celery"  # the configuration has been read already
    source = SimpleNamespace(CELERY_STEPS_BACKEND=REDIS, CELERY_STEPS_PARTITIONS=4, CELERY_TIMEZONE="UTC")
    app.config_from_object(source, namespace="CELERY")
    settings = Settings.of(app)
    assert (settings.backend, settings.partitions) == (REDIS, 4)


def test_settings_are_read_from_the_arguments_of_the_app() -> None:
    assert Settings.of(Celery("shop", set_as_current=False, steps_backend=REDIS)).backend == REDIS


@pytest.mark.parametrize(
    ("conf", "chosen"),
    [
        ({"result_backend": "redis://r/1", "broker_url": "redis://b/0"}, "redis://r/1"),
        ({"result_backend": "rpc://", "broker_url": "redis://b/0"}, "redis://b/0"),
        ({"broker_url": "redis://b1/0;redis://b2/0"}, "redis://b1/0"),
        ({"broker_url": ["rediss://b1/0?ssl_cert_reqs=CERT_NONE", "x"]}, "rediss://b1/0?ssl_cert_reqs=none"),
        ({"broker_url": "redis+socket:///run/redis.sock?virtual_host=3"}, "unix:///run/redis.sock?db=3"),
        ({"broker_url": "amqp://b", "steps_backend": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        ({"broker_url": "redis://b/0", "steps_backend": REDIS}, REDIS),
        ({"steps_backend": "redis://"}, "redis://"),
        ({"steps_backend": "redis://ann:p%40ss@b:6379/2"}, "redis://ann:p%40ss@b:6379/2"),
    ],
)
def test_the_store_is_the_backend_set_else_the_result_backend_else_the_broker(conf: dict[str, Any], chosen: str) -> None:
    assert Settings.of(app_with(**conf)).backend == chosen


def test_without_any_redis_the_error_says_what_to_set() -> None:
    app = app_with(broker_url="amqp://guest:secret@b//", result_backend="db+postgresql://u:secret@db/celery")
    with pytest.raises(SettingsError, match=r"set steps_backend to a redis://") as caught:
        Settings.of(app)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("steps_partition", "steps_partitions"), ("steps_lease", "steps_lease_ttl"), ("steps_url", "steps_")],
)
def test_an_unknown_setting_is_an_error_with_the_nearest_name(wrong: str, nearest: str) -> None:
    with pytest.raises(SettingsError, match=rf"unknown setting {wrong}: did you mean {nearest}"):
        Settings.of(app_with(steps_backend=REDIS, **{wrong: 1}))


def test_an_unknown_setting_in_a_namespace_is_named_as_it_was_written() -> None:
    app = Celery("shop", set_as_current=False)
    source = SimpleNamespace(CELERY_STEPS_BACKEND=REDIS, CELERY_STEPS_CODECS=None)
    app.config_from_object(source, namespace="CELERY")
    with pytest.raises(SettingsError, match=r"unknown setting CELERY_STEPS_CODECS: did you mean CELERY_STEPS_CODEC\?"):
        Settings.of(app)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("backend", "http://localhost", "redis://, rediss:// or unix://"),
        ("backend", "", "redis://, rediss:// or unix://"),
        ("backend", 5, "redis://, rediss:// or unix://"),
        ("backend", "redis://localhost:port/0", "redis://, rediss:// or unix://"),
        ("backend", "redis://localhost/orders", "database is a number"),
        ("backend", "unix://", "redis://, rediss:// or unix://"),
        ("redis_options", "socket_timeout=5", "a dict of redis-py's options"),
        ("redis_options", {1: 2}, "a dict of redis-py's options"),
        ("key_prefix", "", "letters, digits"),
        ("key_prefix", "steps{1}", "letters, digits"),
        ("partitions", 0, "a whole number from 1"),
        ("partitions", True, "a whole number from 1"),
        ("partitions", 2.0, "a whole number from 1"),
        ("lease_ttl", 0, "a number of seconds or a timedelta"),
        ("lease_ttl", -1, "a number of seconds or a timedelta"),
        ("lease_ttl", "30s", "a number of seconds or a timedelta"),
        ("retention", timedelta(0), "a number of seconds or a timedelta"),
        ("retention", float("inf"), "a number of seconds or a timedelta"),
        ("sweep_interval", float("nan"), "a number of seconds or a timedelta"),
        ("sweep_interval", True, "a number of seconds or a timedelta"),
        ("max_crashes", 0, "a whole number from 1"),
        ("max_result_size", 0, "a whole number from 1"),
        ("record_input", "no", "True or False"),
        ("codec", 5, "an import path"),
        ("codec", "codec", "an import path"),
        ("codec", "no_such_module:codec", "an import path"),
        ("codec", f"{__name__}:no_such_codec", "an import path"),
        ("codec", f"{__name__}:REDIS", r"encode\(\) and decode\(\)"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_setting_and_what_is_allowed(name: str, value: object, allowed: str) -> None:
    with pytest.raises(SettingsError, match=rf"^steps_{name} must .*{allowed}"):
        Settings.of(app_with(**{"steps_backend": REDIS, f"steps_{name}": value}))


@pytest.mark.parametrize(
    ("value", "seconds"), [(30, 30.0), (0.25, 0.25), (timedelta(minutes=1), 60.0), (timedelta(days=7), 604_800.0)]
)
@pytest.mark.parametrize("name", ["lease_ttl", "retention", "sweep_interval"])
def test_a_duration_is_seconds_or_a_timedelta(name: str, value: object, seconds: float) -> None:
    stored = getattr(Settings.of(app_with(**{"steps_backend": REDIS, f"steps_{name}": value})), name)
    assert stored == seconds
    assert type(stored) is float


@pytest.mark.parametrize("path", [f"{__name__}:codec_object", f"{__name__}.codec_object", f"{__name__}:ReversingCodec"])
def test_a_codec_is_an_object_or_a_class_named_by_its_import_path(path: str) -> None:
    settings = Settings.of(app_with(steps_backend=REDIS, steps_codec=path))
    assert isinstance(settings.codec, ReversingCodec)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@b/0",
        "redis://ann:se@secret@b/0",
        "redis://b/0?password=secret",
        "unix://ann:secret@/run/r.sock",
    ],
)
def test_a_password_is_shown_nowhere(url: str) -> None:
    assert "secret" not in masked(url)
    settings = Settings.of(app_with(steps_backend=url, steps_redis_options={"password": "secret"}))
    assert "secret" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        Settings.of(app_with(steps_backend=url.replace("redis://", "valkey://").replace("unix://", "file://")))
    assert "secret" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        Settings.of(app_with(steps_backend=REDIS, steps_redis_options=url))
    assert "secret" not in str(caught.value)


def test_settings_cannot_be_changed_once_read() -> None:
    settings = Settings.of(app_with(steps_backend=REDIS))
    with pytest.raises(AttributeError):
        settings.partitions = 32  # type: ignore[misc]
