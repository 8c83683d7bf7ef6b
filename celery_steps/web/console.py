"""The console as an ASGI app: its pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from celery import Celery
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

import celery_steps.web.names  # noqa: F401 - its convertor is named in the routes
from celery_steps.errors import RunRefused, SettingsError, StepsError, StoreUnavailable
from celery_steps.runs import Page, Runs
from celery_steps.store.keys import FINAL, OPEN
from celery_steps.web.actions import act, forget_said, possible, said
from celery_steps.web.guard import LOCAL, Guard, check_hosts
from celery_steps.web.live import Crowded, EventStream, Live
from celery_steps.web.rendering import page, path_of
from celery_steps.web.run_page import view_of, words

#: What `auth` may answer: let in, turn away, or a response to give instead.
Answer = bool | Response | None
Auth = Callable[[Request], Answer | Awaitable[Answer]]

#: Runs of a page, and how many are looked at for it: a search that finds little is not without end.
_PAGE, _LOOK_AT = 50, 20_000
_MOST_OF_A_NAMESPACE = 1000


def create_app(app: Celery, *, read_only: bool = False, hosts: Iterable[str] = LOCAL, auth: Auth | None = None) -> Starlette:
    """The console of one app's runs, to serve as it is or to mount under a prefix.

    Args:
        app: whose runs are shown.
        read_only: no action is routed: it only looks.
        hosts: names under which it is reached, as browsers send them in Host, without port; others are refused.
        auth: asked with each request, in a thread if it is not async: True lets it in, a Response is answered instead (one that
            leads to a login, say), anything else is refused. Required if `hosts` says more than this machine.

    Raises SettingsError for hosts other than this machine's without `auth`.
    """
    names = check_hosts(hosts, auth)
    routes: list[BaseRoute] = [
        Route("/", _list, name="list"),
        Route("/live", _live, name="list_live"),
        Route("/run/{name:steps_name}", _run, name="run"),
        Route("/run/{name:steps_name}/live", _live, name="run_live"),
        Mount("/static", StaticFiles(packages=[("celery_steps.web", "static")]), name="static"),
    ]
    if not read_only:
        routes += [
            Route("/act/{action}", act, methods=["POST"], name="act"),
            Route("/run/{name:steps_name}/{action}", act, methods=["POST"], name="run_act"),
        ]
    console = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=names, auth=auth)],
        exception_handlers={StepsError: _trouble, HTTPException: _http_trouble},
    )
    console.state.runs = runs = Runs(app)
    console.state.live = Live(runs.version)
    console.state.read_only = read_only
    return console


def _runs(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


# Not async: Starlette calls these in a thread, as Redis is asked.


def _list(request: Request) -> Response:
    asked, runs = request.query_params, _runs(request)
    filled = _Asked(asked)
    text = filled.q.strip()
    older = "cursor" in asked
    if text and not older and runs.list(namespace=text, limit=1).runs:
        return RedirectResponse(path_of(request, "run", name=text), 303)
    version = "" if older else runs.version()  # before the rest: what comes in between is told
    filters = {name: asked.get(name) or None for name in ("task", "since", "until", "cursor")}
    found = runs.list(status=filled.status or None, text=text or None, look_at=_LOOK_AT, limit=_PAGE, **filters)
    context = {"page": found, "stats": runs.stats(), "version": version, "statuses": OPEN + FINAL, "look_at": _LOOK_AT}
    narrowed = any((filled.status, filled.task, filled.since, filled.until, filled.q))
    return _said(request, "list.html", {**context, "asked": filled, "narrowed": narrowed, "older": older})


def _run(request: Request) -> Response:
    name, runs = request.path_params["name"], _runs(request)
    version = runs.version(name)
    several = runs.list(namespace=name, limit=_MOST_OF_A_NAMESPACE)
    ids = {run.id for run in several.runs}
    if len(ids) != 1:
        return _namespace(request, name, several, version)
    run = runs.get(name)
    try:
        records, timeline = runs.records(run.namespace, attempts=True), runs.timeline(run.id)
    except RunRefused:  # its journal is lost: the run says so
        records, timeline = [], None
    view = view_of(run, records, runs.logs(run.id), timeline, request.query_params)
    context = {"name": name, "run": run, "view": view, "version": version, "possible": possible(run)}
    return _said(request, "run.html", {**context, **words()})


def _namespace(request: Request, name: str, page: Page, version: str) -> Response:
    """A namespace of several runs, or of none of its own: only steps that other runs recorded in it."""
    records = [] if page.runs else _runs(request).records(name)
    return _said(request, "namespace.html", {"name": name, "page": page, "records": records, "version": version})


def _said(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    """A page, and what an action says that led to it."""
    response = page(request, template, {**context, "said": said(request)}, status)
    forget_said(request, response)
    return response


async def _live(request: Request) -> Response:
    live: Live = request.app.state.live
    name = request.path_params.get("name")
    live.check_room(name)
    seen = request.headers.get("last-event-id") or request.query_params.get("since", "")
    return EventStream(live.events(name, seen))


class _Asked:
    """What the address asks for, and addresses that ask for a little else."""

    def __init__(self, params: QueryParams) -> None:
        self.status = [status for status in params.getlist("status") if status]  # browsers send the empty "any" too
        self.task, self.since, self.until, self.q = (params.get(name, "") for name in ("task", "since", "until", "q"))

    def but(self, **changed: Any) -> str:
        """The query of the same filters, but for these."""
        asked = {"status": self.status, "task": self.task, "since": self.since, "until": self.until, "q": self.q, **changed}
        return urlencode({name: value for name, value in asked.items() if value}, doseq=True, errors="surrogatepass")


_TROUBLES = ((StoreUnavailable, 503), (Crowded, 503), (RunRefused, 404), (SettingsError, 500))


def _trouble(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _TROUBLES if isinstance(error, kind)), 400)
    return _said(request, "trouble.html", {"status": status, "text": str(error)}, status)


def _http_trouble(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = page(request, "trouble.html", {"status": error.status_code, "text": error.detail}, error.status_code)
    response.headers.update(error.headers or {})  # a 405 says in Allow what is
    return response
