"""Actions: a form that was confirmed becomes one call of `Runs`, and what came of it is told on the next page."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable
from hmac import compare_digest
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from celery_steps.errors import StepsError
from celery_steps.escape import safe, shown
from celery_steps.past import Run
from celery_steps.runs import Runs
from celery_steps.store.keys import OPEN
from celery_steps.web.rendering import page, path_of, unpacked

logger = logging.getLogger(__name__)

Fields = dict[str, str]

#: A result of steps_max_result_size, percent-encoded at the worst, has a page of its own: the command line.
_LARGEST_BODY = 2 * 1024 * 1024
_FORM = "application/x-www-form-urlencoded"
_SAID = "steps_said"
#: Bytes. A cookie holds 4 kB, and base64 makes four of three.
_LARGEST_SAID = 2500
#: What of a form is logged: of what is recorded as it is, nothing.
_LOGGED = ("step", "event", "to", "id", "namespace", "how")


def possible(run: Run) -> list[str]:
    """The actions that a run in its present state would not refuse outright."""
    found = ["fork", "emit"]
    if run.status in OPEN and run.status != "rolling_back":  # what is undone is undone to its end
        found += ["cancel", "unpause" if run.status == "paused" else "pause"]
    if run.status in ("failed", "cancelled"):
        found.append("retry")
    if run.status == "in_doubt":
        found.append("resolve")
    return found


async def act(request: Request) -> Response:
    """POST of an action's form."""
    action, name = request.path_params["action"], request.path_params.get("name", "")
    if action not in _ACTIONS or (not name and action != "emit"):
        raise HTTPException(404)
    fields = await _form(request)
    if not compare_digest(fields.pop("csrf", "").encode(), request.scope["steps_csrf"].encode()):
        raise HTTPException(403, "This page was made for another session: load it again, then act.")
    if fields.pop("confirmed", "") != "yes":  # without scripts
        return page(request, "confirm.html", {"action": action, "name": name, "again": urlencode(fields)})
    runs: Runs = request.app.state.runs
    return await run_in_threadpool(_act, request, runs, action, name, fields)


def _act(request: Request, runs: Runs, action: str, name: str, fields: Fields) -> Response:
    new = ""
    try:
        text, new = _ACTIONS[action](runs, name, fields)
        refused = False
    except StepsError as error:
        text, refused = str(error), True
    details = [f"{field}={shown(fields[field], 200)}" for field in _LOGGED if fields.get(field)]
    asked = " ".join([action, *([safe(name)] if name else []), *details])
    logger.info("%s asked for %s: %s", _who(request), asked, "refused" if refused else "done")
    target = path_of(request, "run", name=name) if name else path_of(request, "list")
    response = RedirectResponse(f"{target}?said", 303)
    # In a cookie: a link with a text in it would let anybody say something here.
    response.set_cookie(
        _SAID,
        base64.urlsafe_b64encode(_fitting(text, refused, new)).decode(),
        max_age=60,
        path=request.scope.get("root_path", "") or "/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _who(request: Request) -> str:
    address = request.client.host if request.client else "somebody"
    user = request.scope.get("steps_user")
    return address if user is None else f"{safe(user)} at {address}"


def _fitting(text: str, refused: bool, run: str) -> bytes:
    """What is told, with as much of the text as a cookie holds."""
    for most in range(_LARGEST_SAID, -1, -100):
        told = {"text": text if len(text) <= most else f"{text[:most]}…", "refused": refused, "run": run}
        said = json.dumps(told, ensure_ascii=False).encode(errors="surrogatepass")
        if len(said) <= _LARGEST_SAID:
            break
    return said


def said(request: Request) -> Any:
    """What the action said that led here; None without one."""
    if "said" not in request.query_params or _SAID not in request.cookies:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(request.cookies[_SAID]))
        return {"text": str(found["text"]), "refused": bool(found["refused"]), "run": str(found["run"])}
    except (ValueError, KeyError, TypeError):
        return None


def forget_said(request: Request, response: Response) -> None:
    """Once is enough."""
    if "said" in request.query_params and _SAID in request.cookies:
        response.delete_cookie(_SAID, path=request.scope.get("root_path", "") or "/", httponly=True, samesite="strict")


async def _form(request: Request) -> Fields:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise HTTPException(415, "An action is sent as a form.")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise HTTPException(413, "That is too large for the console: use `celery steps resolve` or `emit`.")
    try:
        fields = _parsed(body.decode("ascii"))
        return _parsed(fields.pop("again", "")) | fields
    except ValueError as error:
        raise HTTPException(400, "This form cannot be read.") from error


def _parsed(text: str) -> Fields:
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=20))


def _step(fields: Fields) -> tuple[str | None, int]:
    """The step that a form names: its sequence, a colon, and its key, percent-encoded."""
    sequence, colon, key = fields.get("step", "").partition(":")
    if not colon:
        return None, 1
    try:
        return unpacked(key), int(sequence)
    except ValueError as error:  # no number, one of thousands of digits, or bytes that are no text
        raise StepsError(f"{fields['step']!r:.80} names no step.") from error


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StepsError(f"{what} must be JSON: {error}. A text is written in quotes.") from error


def _cancel(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    runs.cancel(name)
    return "Asked to end as cancelled: at once where it waits, after the handler in progress where it runs.", ""


def _pause(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    runs.pause(name)
    return "Asked to start no further step until it is unpaused.", ""


def _unpause(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    runs.unpause(name)
    return "It carries on.", ""


def _retry(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    key, sequence = _step(fields)
    runs.retry(name, key, sequence=sequence)
    return "It begins again, with its recorded results.", ""


def _fork(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    key, sequence = _step(fields)
    namespace = fields.get("namespace") or None
    id = runs.fork(name, key, sequence=sequence, namespace=namespace)
    return f"Its copy is on its way, as task {id}:", namespace or id  # the id is not known before a worker has begun


def _resolve(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    key, sequence = _step(fields)
    how = fields.get("how", "")
    given: dict[str, Any] = {}
    if how == "done":
        given = {"done": _json(fields.get("result", ""), "The result")}
    elif how == "failed":
        given = {"failed": fields.get("text", "")}
    elif how == "rerun":
        given = {"rerun": True}
    runs.resolve(name, key, sequence=sequence, **given)
    return "Resolved: it carries on.", ""


def _emit(runs: Runs, name: str, fields: Fields) -> tuple[str, str]:
    to = name or fields.get("to") or None
    data = _json(fields.get("data") or "{}", "The event's data")
    reached = runs.emit(fields.get("event", ""), data, to=to, id=fields.get("id") or None)
    kept = " It is kept there until a run waits for it." if to and not reached else ""
    return f"Sent: it reached {reached:,} {'wait or task' if reached == 1 else 'waits and tasks'}.{kept}", ""


_ACTIONS: dict[str, Callable[[Runs, str, Fields], tuple[str, str]]] = {
    "cancel": _cancel, "pause": _pause, "unpause": _unpause, "retry": _retry, "fork": _fork, "resolve": _resolve, "emit": _emit,
}  # fmt: skip
