"""Pages from templates. What journals hold is never trusted: every value is escaped, twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Router

from celery_steps.escape import as_json, error_text, safe, shown
from celery_steps.times import spoken


def visible(value: Any) -> Any:
    """What a template prints: every character as itself or as an escape. Markup, which only templates make, as it is."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(safe, value.split("\n")))
    return value


def json_text(value: Any) -> str:
    """A decoded value as indented JSON."""
    return json.dumps(as_json(value), indent=2, ensure_ascii=False)


def cut(text: str, most: int) -> str:
    """A text that may be long, in one line."""
    text = safe(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def packed(text: str) -> str:
    """A text for a hidden field, which must come back as it is."""
    return quote(text, safe="", errors="surrogatepass")


def unpacked(text: str) -> str:
    return unquote(text, errors="surrogatepass")


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds")


def clock(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def ago(moment: datetime) -> str:
    """How long ago, or how far ahead, for people."""
    seconds = (datetime.now(timezone.utc) - moment).total_seconds()
    return f"{spoken(seconds)} ago" if seconds >= 0 else f"in {spoken(-seconds)}"


@pass_context
def _url_for(context: Context, name: str, /, **params: Any) -> str:
    """The path of a route, below whatever prefix the console is mounted at."""
    return path_of(context["request"], name, **params)


def path_of(request: Request, name: str, /, **params: Any) -> str:
    # Not request.url_for: that begins with a scheme, which behind a proxy is the wrong one, and asks the outermost router.
    router: Router = request.app.router
    return f"{request.scope.get('root_path', '').rstrip('/')}{router.url_path_for(name, **params)}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("celery_steps.web"),
        autoescape=True,
        finalize=visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["url_for"] = _url_for
    filters: dict[str, Callable[..., Any]] = {
        "json_text": json_text, "packed": packed, "iso": iso, "clock": clock, "ago": ago, "spoken": spoken,
        "error_text": error_text, "shown": partial(shown, most=200), "cut": cut,
    }  # fmt: skip
    environment.filters.update(filters)
    return environment


_templates = _environment()


def page(request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
    """A page made from a template; every page knows `request`, `read_only`, `csrf` and what an action `said`."""
    state = request.app.state
    known = {"request": request, "read_only": state.read_only, "csrf": request.scope.get("steps_csrf", ""), "said": None}
    return HTMLResponse(_templates.get_template(template).render({**known, **context}), status)
