"""Is everything as durable runs need it? Looks, and changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

from celery import Celery

from celery_steps.errors import SettingsError, StepsError, StoreUnavailable
from celery_steps.settings import masked
from celery_steps.store.client import address_of
from celery_steps.store.index import Index
from celery_steps.store.server import Server, Trouble
from celery_steps.store.store import Store
from celery_steps.task import DurableTask
from celery_steps.times import spoken
from celery_steps.worker import runtime

OK, WARNING, ERROR = "ok", "warning", "error"

#: Seconds by which a worker's clock may differ before times in logs and in the store tell different stories.
_CLOCK_TOLERANCE = 2.0
#: A ticket is published within the sweep interval; what is due for longer, nobody sweeps.
_LATE = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing examined. `do` is the one thing to do about it, "" where all is well."""

    level: str  # ok, warning, error
    what: str
    do: str = ""


Findings = Iterator[Finding]


def examine(app: Celery) -> list[Finding]:
    """Every finding, in the order in which things depend on each other."""
    try:
        settings = runtime.of(app).settings
    except SettingsError as error:
        return [Finding(ERROR, str(error), "correct the setting")]
    store = runtime.of(app).main_store
    where = f"Redis at {store.client.address} (steps_backend)"
    findings = [Finding(OK, f"settings: journals are kept under {settings.key_prefix!r}, leases last {settings.lease_ttl:g} s")]
    try:
        store.client.call("PING")
    except StoreUnavailable as error:
        what, _, _ = str(error).partition(". Start it")
        return [*findings, Finding(ERROR, what, "start it, or correct steps_backend")]
    findings.append(Finding(OK, f"{where} answers"))
    server = Server(store)
    info = server.info()
    checks: list[Callable[[], Findings]] = [
        lambda: _server(server, info),
        lambda: _data(server),
        lambda: _scripts(store),
        lambda: _durability(server, info),
        lambda: _memory(info),
        lambda: _sharing(app, store),
        lambda: _clock(store),
        lambda: _tasks(app),
        lambda: _results(app),
        lambda: _tickets(app, store),
    ]
    for check in checks:
        try:
            findings += check()
        except StepsError as error:
            findings.append(Finding(ERROR, str(error), "see to that first, then ask again"))
    return findings


def _troubles(level: str, troubles: list[Trouble], fine: str) -> Findings:
    yield from (Finding(level, trouble.what, trouble.do) for trouble in troubles)
    if not troubles:
        yield Finding(OK, fine)


def _server(server: Server, info: dict[str, str]) -> Findings:
    version, policy = info.get("redis_version", "unknown"), info.get("maxmemory_policy", "unknown")
    yield from _troubles(ERROR, server.refusals(info), f"version {version}, maxmemory-policy {policy}")
    if info.get("role") == "slave":
        yield Finding(ERROR, "this Redis is a replica and takes no writes", "point steps_backend to its primary")


def _data(server: Server) -> Findings:
    agreed = server.agreed()
    fine = (
        f"data of schema {agreed.get('schema')} in {agreed.get('partitions')} partitions"
        if agreed
        else "no worker has used this store yet"
    )
    yield from _troubles(ERROR, server.disagreements(agreed), fine)


def _scripts(store: Store) -> Findings:
    try:
        store.client.script("claim")
        store.client.script("commit")
    except StoreUnavailable as error:
        yield Finding(ERROR, f"scripts are refused: {error}", "allow SCRIPT, EVALSHA and EVAL to the user of steps_backend")
    else:
        yield Finding(OK, "scripts load")


def _durability(server: Server, info: dict[str, str]) -> Findings:
    risks = server.risks(info)
    if risks:
        yield from _troubles(WARNING, risks, "")
        return
    failed = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if failed:
        yield Finding(ERROR, f"Redis cannot write to its disk ({failed[0]} is {info[failed[0]]})", "make room or repair it")
    elif info.get("aof_enabled") == "1":
        sync = server.appendfsync()
        loses = {"always": "nothing recorded", "everysec": "up to the last 2 s of records"}.get(sync, "what was not synced")
        yield Finding(OK, f"append-only file is on (appendfsync {sync or 'unknown'}): a crash of the machine loses {loses}")
    else:
        what = "only snapshots are written (RDB), a crash of Redis loses every record since the last one"
        yield Finding(WARNING, what, "turn on appendonly")
    replicas = int(info.get("connected_slaves", 0))
    if replicas:
        what = f"{replicas} replica{'s' * (replicas > 1)}: replication lags, a failover loses the last records"
        yield Finding(OK, f"{what} (such runs end as failed with JournalLost, or repeat their last steps)")


def _memory(info: dict[str, str]) -> Findings:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit and used > 0.9 * limit:
        do = "raise maxmemory, or purge finished runs (steps purge --older-than 1d)"
        yield Finding(WARNING, f"{used / limit:.0%} of maxmemory is used, no run can begin when it is full", do)


def _sharing(app: Celery, store: Store) -> Findings:
    urls = app.conf.broker_write_url or app.conf.broker_url
    for url in urls if isinstance(urls, (list, tuple)) else str(urls or "").split(";"):
        if address_of(url) == store.client.address:
            what = f"steps_backend is the broker's database ({store.client.address}): flushing the broker loses unfinished runs"
            yield Finding(WARNING, what, "give steps_backend a database of its own")
            return
    yield Finding(OK, "the broker uses another database")


def _clock(store: Store) -> Findings:
    before = time.time()
    theirs = Index(store).now() / 1000
    after = time.time()
    off = theirs - after if theirs > after else min(0.0, theirs - before)
    if abs(off) > _CLOCK_TOLERANCE:
        where = "ahead of" if off > 0 else "behind"
        what = f"Redis's clock is {spoken(abs(off))} {where} this machine's; leases and timers go by Redis's"
        yield Finding(WARNING, what, "synchronise the clocks (NTP)")
    else:
        yield Finding(OK, "Redis's clock and this machine's agree")


def _tasks(app: Celery) -> Findings:
    try:
        app.loader.import_default_modules()
        names = sorted(name for name, task in app.tasks.items() if isinstance(task, DurableTask))
    except Exception as error:  # the project's own code
        what = f"the app's task modules cannot be imported: {type(error).__name__}: {error}"
        yield Finding(ERROR, what, "correct the import; a worker cannot start either")
        return
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield Finding(OK, f"durable tasks: {', '.join(names[:3])}{more}")
    else:
        do = "give a task base=DurableTask, and name the module in the app's include or imports"
        yield Finding(WARNING, f"app {app.main or ''!r} has no durable task", do)


def _results(app: Celery) -> Findings:
    name = type(app.backend).__name__
    if name == "DisabledBackend":
        yield Finding(OK, "no result backend: results are not stored")
        return
    try:
        app.backend.get_state(f"steps-doctor-{uuid4()}")
    except NotImplementedError:
        yield Finding(OK, f"result backend {name} cannot be asked for states")
    except Exception as error:  # of a driver
        do = "start the result backend, or correct result_backend"
        yield Finding(ERROR, f"result backend {name} cannot be read: {type(error).__name__}: {masked(str(error))}", do)
    else:
        yield Finding(OK, f"result backend {name} can be read")


def _tickets(app: Celery, store: Store) -> Findings:
    index, name = Index(store), app.main or ""
    tickets = index.tickets(name)
    late = tickets.late_ms / 1000
    if late > _LATE + store.settings.sweep_interval:
        what = f"{tickets.due:,} of {tickets.total:,} unfinished runs are due, the first for {spoken(late)}: no worker sweeps"
        yield Finding(WARNING, what, f"start a worker of app {name!r}, or run `celery -A … steps sweep`")
    else:
        yield Finding(OK, f"unfinished runs of app {name!r}: {tickets.total:,}, none overdue")
    lost = index.without_message(name)
    if lost:
        ids = ", ".join(run.id for _, run in lost[:3]) + (" and others" if len(lost) > 3 else "")
        what = f"{len(lost)} unfinished runs have lost their message in Redis and cannot be delivered again: {ids}"
        yield Finding(ERROR, what, "send these tasks again")
