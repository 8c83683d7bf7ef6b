"""Who may ask, from where, and what browsers may do with the answer."""

from __future__ import annotations

import logging
import secrets
from base64 import b64decode
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from inspect import isawaitable
from ipaddress import ip_address
from typing import Any

from starlette.concurrency import run_in_threadpool
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
#: The hosts under which a console is usually reached from the machine that it runs on.
LOCAL = ("localhost", "127.0.0.1", "[::1]")


def is_local(host: str) -> bool:
    """Whether only the machine that a console runs on reaches it under that name."""
    try:
        return ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_hosts(hosts: Iterable[str], auth: object) -> frozenset[str]:
    """The host names, as they are compared. SettingsError for others than this machine's that nothing guards."""
    if isinstance(hosts, str):
        raise SettingsError(f"hosts must be a list of names, not the text {hosts!r}.")
    names = frozenset(name.lower() for name in hosts)
    if auth is None and (beyond := sorted(name for name in names if not is_local(name))):
        raise SettingsError(
            f"The console would be open to everybody who reaches {beyond[0]!r}: give create_app an auth= that says who may look "
            "and act (`lambda request: True` where what it is mounted in has asked already)."
        )
    return names


def host_of(netloc: str) -> str:
    """A Host header without its port."""
    name, colon, port = netloc.rpartition(":")
    return (name if colon and port.isdecimal() else netloc).lower()


class BasicAuth:
    """An `auth=` that asks for one user's name and password, as browsers do (HTTP basic authentication).

    They travel readably: only over TLS, or on one machine.
    """

    def __init__(self, user: str, password: str) -> None:
        if not user or not password or ":" in user:
            raise SettingsError("A console's user and password must not be empty, and the user's name has no colon.")
        self._user, self._expected = user, _digest(f"{user}:{password}".encode())

    def __call__(self, request: Request) -> bool | Response:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            known = scheme.lower() == "basic" and b64decode(given.strip(), validate=True)
        except ValueError:
            known = False
        # Digests are of one length: how long the comparison takes says nothing.
        if known and compare_digest(_digest(known), self._expected):
            request.scope["steps_user"] = self._user  # for the log of actions
            return True
        challenge = {"WWW-Authenticate": 'Basic realm="celery-steps", charset="UTF-8"'}
        return PlainTextResponse("This console asks for a user and a password.\n", 401, challenge)


def _digest(text: bytes) -> bytes:
    return sha256(text).digest()


class Guard:
    """Around the whole console, so that nothing in it can be reached past it."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], auth: Any) -> None:
        self._app, self._hosts, self._auth = app, hosts, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
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
            answer = await self._ask(request)
            if isinstance(answer, Response):
                return answer
            if answer is not True:
                return _refused(403, "You may not use this console.")
        here = f"{request.scope['scheme']}://{host}"
        if request.method not in _SAFE and not _from_here(headers, here):
            return _refused(
                403,
                f"Actions are taken from the console's own pages only, here those of {here}. "
                "A proxy in front must hand on Host and X-Forwarded-Proto.",
            )
        return None

    async def _ask(self, request: Request) -> Any:
        """What `auth` says. It may ask a database: in a thread, where it is not async."""
        answer = await run_in_threadpool(self._auth, request)
        return await answer if isawaitable(answer) else answer


def _from_here(headers: Headers, here: str) -> bool:
    """Whether a browser says that one of our own pages sent this; what is said by none of its headers is refused."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is None and site is None:
        return False
    return origin in (None, here) and site in (None, "same-origin")


def _refused(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)


def _cookie(scope: Scope, value: str) -> str:
    path = scope.get("root_path", "") or "/"
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{_COOKIE}={value}; Path={path}; HttpOnly; SameSite=Strict{secure}"
