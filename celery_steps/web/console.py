"""The console as an ASGI app: its pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from celery import Celery
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import celery_steps.web.names  # noqa: F401 - its convertor is named in the routes
from celery_steps.errors import RunRefused, StepsError, StoreUnavailable
from celery_steps.runs import Runs
from celery_steps.store.keys import FINAL, OPEN
from celery_steps.web.guard import Guard, check_hosts
from celery_steps.web.rendering import page

#: What `auth` may answer: let in, turn away, or a response to give instead.
Answer = bool | Response | None
Auth = Callable[[Request], Answer | Awaitable[Answer]]

#: The hosts under which a console is reached from the machine that it runs on.
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def create_app(app: Celery, *, read_only: bool = False, hosts: Iterable[str] = LOCAL, auth: Auth | None = None) -> Starlette:
    """The console of one app's runs, to serve as it is or to mount under a prefix.

    Args:
        app: whose runs are shown.
        read_only: no action is routed: it only looks.
        hosts: names under which it is reached, as browsers send them in Host, without port; others are refused.
        auth: asked with each request (a function, or an async one): True lets it in, a Response is answered instead (a login
            page, say), anything else is refused. Required if `hosts` says more than this machine.

    Raises SettingsError for hosts other than this machine's without `auth`.
    """
    names = check_hosts(hosts, auth)
    routes = [
        Route("/", _list, name="list"),
        Route("/run/{name:steps_name}", _run, name="run"),
        Mount("/static", StaticFiles(packages=[("celery_steps.web", "static")]), name="static"),
    ]
    console = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=names, auth=auth)],
        exception_handlers={StepsError: _trouble, HTTPException: _http_trouble},
    )
    console.state.runs = Runs(app)
    console.state.celery = app
    console.state.read_only = read_only
    return console


def _runs(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


# Not async: Starlette calls these in a thread, as Redis is asked.


def _list(request: Request) -> Response:
    asked = request.query_params
    filters: dict[str, Any] = {
        "status": asked.getlist("status") or None,
        **{name: asked.get(name) or None for name in ("task", "since", "until", "cursor")},
    }
    runs = _runs(request)
    found = runs.list(**filters)
    return page(request, "list.html", {"page": found, "asked": asked, "statuses": OPEN + FINAL, "stats": runs.stats()})


def _run(request: Request) -> Response:
    name = request.path_params["name"]
    runs = _runs(request)
    run = runs.get(name)
    try:
        records = runs.records(run.namespace, attempts=True)
    except RunRefused:  # its journal is lost: the run says so
        records = []
    return page(request, "run.html", {"name": name, "run": run, "records": records, "logs": runs.logs(name), "timeline": None})


def _trouble(request: Request, error: Exception) -> Response:
    status = 503 if isinstance(error, StoreUnavailable) else 404 if isinstance(error, RunRefused) else 400
    return page(request, "trouble.html", {"status": status, "text": str(error)}, status)


def _http_trouble(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return page(request, "trouble.html", {"status": error.status_code, "text": error.detail}, error.status_code)
