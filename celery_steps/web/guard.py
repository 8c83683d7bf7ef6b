"""Who may ask, from where, and what browsers may do with the answer."""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from celery_steps.errors import SettingsError

logger = logging.getLogger(__name__)

_POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self' data:",
    "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'",
))  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with that, browsers send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_COOKIE = "steps_console"
_SAFE = ("GET", "HEAD")
_HERE = ("localhost", "127.0.0.1", "[::1]")


def check_hosts(hosts: Iterable[str], auth: object) -> frozenset[str]:
    """The host names, as they are compared. SettingsError for others than this machine's that nothing guards."""
    if isinstance(hosts, str):
        raise SettingsError(f"hosts must be a list of names, not the text {hosts!r}.")
    names = frozenset(name.lower() for name in hosts)
    if auth is None and (beyond := sorted(names.difference(_HERE))):
        raise SettingsError(
            f"The console would be open to everybody who reaches {beyond[0]!r}: give create_app an auth= that says who may look "
            "and act (`lambda request: True` where what it is mounted in has asked already)."
        )
    return names


def host_of(netloc: str) -> str:
    """A Host header without its port."""
    name, colon, port = netloc.rpartition(":")
    return (name if colon and port.isdecimal() else netloc).lower()


class Guard:
    """Around the whole console, so that nothing in it can be reached past it."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], auth: Any) -> None:
        self._app, self._hosts, self._auth = app, hosts, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        token = request.cookies.get(_COOKIE, "")
        fresh = "" if len(token) == 43 else secrets.token_urlsafe(32)
        scope["steps_csrf"] = fresh or token
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if fresh:
                    headers.append("Set-Cookie", _cookie(scope, fresh))
            await send(message)

        try:
            refusal = await self._refusal(request)
            await (refusal or self._app)(scope, receive, sending)
        except Exception:
            if begun:
                raise
            logger.exception("The console failed at %s %r", request.method, scope["path"])
            await _refused(500, "The console failed: its log says how.")(scope, receive, sending)

    async def _refusal(self, request: Request) -> Response | None:
        headers = request.headers
        host = headers.get("host", "")
        if host_of(host) not in self._hosts:
            return _refused(400, f"This console is not served under the name {host!r:.100}: see its allowed hosts.")
        if self._auth is not None:
            answer = self._auth(request)
            if inspect.isawaitable(answer):
                answer = await answer
            if isinstance(answer, Response):
                return answer
            if answer is not True:
                return _refused(403, "You may not use this console.")
        if request.method not in _SAFE and not _from_here(headers, host):
            return _refused(403, "Actions are taken from the console's own pages only.")
        return None


def _from_here(headers: Headers, host: str) -> bool:
    """Whether a browser says that one of our own pages sent this; what is said by none of its headers is refused."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None and site is None:
        return False
    return (origin is None or urlsplit(origin).netloc == host) and site in (None, "same-origin")


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)


def _cookie(scope: Scope, value: str) -> str:
    path = scope.get("root_path", "") or "/"
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{_COOKIE}={value}; Path={path}; HttpOnly; SameSite=Strict{secure}"
