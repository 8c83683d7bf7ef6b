"""Who may ask, from where, and what a page may do."""

from __future__ import annotations

import base64
import logging
import re
from typing import Any

import pytest
from celery import Celery
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from celery_steps import Runs, SettingsError
from celery_steps.web import BasicAuth, create_app
from command_line import HOSTILE
from delivering import deliver
from web.browsing import OURS, act, step, token_of

PAGES = ("/", "/?status=nonsense", "/run/nobody", "/nothing/here", "/static/console.js", "/static/nothing")


def client(app: Celery, **options: Any) -> TestClient:
    return TestClient(create_app(app, **options), base_url="http://localhost", follow_redirects=False)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


# -- what a browser may do with the answers -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_every_answer_forbids_what_the_console_does_not_need(console: TestClient, path: str) -> None:
    headers = console.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


def test_no_page_has_scripts_or_styles_of_its_own(console: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    for path in (*PAGES[:3], "/run/one"):
        page = console.get(path).text
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page)


def test_what_goes_wrong_inside_is_logged_and_not_shown(
    app: Celery, console: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Runs) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(Runs, "stats", fail)
    answer = console.get("/")
    assert (answer.status_code, answer.text) == (500, "The console failed: its log says how.\n")
    assert "content-security-policy" in answer.headers
    assert "a secret" in caplog.text


def test_there_are_no_websockets(console: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), console.websocket_connect("/live"):
        pass


# -- hosts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:5557", "", "192.168.1.5:5557"]
)
def test_another_host_is_refused_whatever_is_asked(console: TestClient, host: str) -> None:
    for path in ("/", "/static/console.css", "/live"):
        answer = console.get(path, headers={"Host": host})
        assert answer.status_code == 400
        assert "is not served under the name" in answer.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5557", "127.0.0.1:5557", "[::1]", "[::1]:5557"])
def test_this_machine_is_served_under_its_names(console: TestClient, host: str) -> None:
    assert console.get("/", headers={"Host": host}).status_code == 200


def test_other_hosts_need_somebody_who_asks_who_it_is(app: Celery) -> None:
    with pytest.raises(SettingsError, match=r"open to everybody who reaches 'steps\.example': give create_app an auth="):
        create_app(app, hosts=["steps.example"])
    with pytest.raises(SettingsError, match="must be a list of names"):
        create_app(app, hosts="steps.example")
    assert client(app, hosts=["127.0.0.2"]).get("/", headers={"Host": "127.0.0.2:5557"}).status_code == 200  # this machine
    console = client(app, hosts=["Steps.Example"], auth=lambda request: True)
    assert console.get("/", headers={"Host": "steps.example"}).status_code == 200
    assert console.get("/").status_code == 400  # not its name


# -- who ----------------------------------------------------------------------------------------------------------------


def test_basic_authentication_lets_in_whom_it_knows(app: Celery) -> None:
    console = client(app, auth=BasicAuth("ann", "pass:wörd"))
    for headers in (
        {},
        basic("ann", "wrong"),
        basic("bob", "pass:wörd"),
        basic("", ""),
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer x"},
    ):
        for path in ("/", "/static/console.js", "/live"):
            answer = console.get(path, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert console.get("/", headers=basic("ann", "pass:wörd")).status_code == 200


@pytest.mark.parametrize(("user", "password"), [("", "secret"), ("ann", ""), ("a:b", "secret")])
def test_a_user_without_password_is_no_user(user: str, password: str) -> None:
    with pytest.raises(SettingsError, match="must not be empty"):
        BasicAuth(user, password)


def test_an_auth_of_ones_own_may_be_async_and_may_lead_to_a_login(app: Celery) -> None:
    async def staff(request: Request) -> Any:
        who = request.headers.get("x-who")
        return RedirectResponse("/login") if who is None else who == "ann"

    console = client(app, auth=staff)
    assert console.get("/").headers["location"] == "/login"
    assert console.get("/", headers={"X-Who": "ann"}).status_code == 200
    assert console.get("/", headers={"X-Who": "bob"}).status_code == 403


@pytest.mark.parametrize("answer", [None, False, 1, "ann"])
def test_an_auth_that_does_not_say_true_lets_nobody_in(app: Celery, answer: Any) -> None:
    assert client(app, auth=lambda request: answer).get("/").status_code == 403


# -- actions ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(console: TestClient, order: Any, runs: Runs) -> Any:
    """What would become of a run that waits: asked after each request that must not have changed it."""
    deliver(order, "book", "wait", id="one")
    yield
    assert runs.get("one").status == "suspended"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:8000"},
        {"Origin": "https://localhost"},
        {"Origin": "http://[bad"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {},
    ],
)
def test_an_action_from_elsewhere_is_refused(console: TestClient, waits: None, headers: dict[str, str]) -> None:
    data = {"csrf": token_of(console), "confirmed": "yes"}
    answer = console.post("/run/one/cancel", data=data, headers=headers)
    assert answer.status_code == 403
    assert "from the console's own pages only" in answer.text


def test_behind_a_proxy_that_hands_on_the_scheme_an_action_is_from_here(app: Celery, runs: Runs, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    console = TestClient(create_app(app), base_url="https://localhost", follow_redirects=False)
    data = {"csrf": token_of(console), "confirmed": "yes"}
    refused = console.post("/run/one/pause", data=data, headers={"Origin": "http://localhost"})
    assert refused.status_code == 403
    assert "here those of https://localhost" in refused.text
    assert "X-Forwarded-Proto" in refused.text
    assert console.post("/run/one/pause", data=data, headers={"Origin": "https://localhost"}).status_code == 303
    assert runs.get("one").status == "paused"


@pytest.mark.parametrize("token", ["", "x", "A" * 43])
def test_an_action_without_the_token_of_its_page_is_refused(console: TestClient, waits: None, token: str) -> None:
    console.get("/")
    for data in ({"csrf": token, "confirmed": "yes"}, {"confirmed": "yes"}):
        answer = console.post("/run/one/cancel", data=data, headers=OURS)
        assert answer.status_code == 403
        assert "load it again" in answer.text


def test_the_token_of_another_browser_is_refused(app: Celery, console: TestClient, waits: None) -> None:
    data = {"csrf": token_of(client(app)), "confirmed": "yes"}
    console.get("/")
    assert console.post("/run/one/cancel", data=data, headers=OURS).status_code == 403


def test_the_tokens_cookie_stays_on_this_site_and_away_from_scripts(app: Celery) -> None:
    console = client(app)
    cookie = console.get("/").headers["set-cookie"]
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert "set-cookie" not in console.get("/").headers
    assert console.get("https://localhost/", headers={"Cookie": ""}).headers["set-cookie"].endswith("; Secure")


def test_an_action_that_was_not_confirmed_asks_and_does_nothing(console: TestClient, waits: None) -> None:
    answer = act(console, "/run/one/cancel", confirmed="", step=step("pri\tce"))
    assert answer.status_code == 200
    assert "Really cancel one?" in answer.text


def test_what_was_asked_without_scripts_is_done_once_confirmed(console: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    page = act(console, "/run/one/emit", confirmed="", event="approved", data='{"by":\r\n\t"ann"}').text
    (again,) = re.findall(r'name="again" value="([^"]*)"', page)
    answer = act(console, "/run/one/emit", again=again.replace("&amp;", "&"))
    assert answer.status_code == 303
    deliver(order, "book", "wait", id="one")
    assert runs.records("one")[-1].result == {"by": "ann"}


@pytest.mark.parametrize("path", ["/run/one/cancel", "/act/emit"])
def test_nothing_happens_when_a_link_is_followed(console: TestClient, waits: None, path: str) -> None:
    answer = console.get(path, headers=OURS)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/run/one/cancel", "/run/one/nonsense", "/run/one/live", "/act/cancel", "/run/one", "/"])
def test_a_console_that_only_looks_has_no_way_to_act(app: Celery, waits: None, path: str) -> None:
    console = client(app, read_only=True)
    cookie = console.get("/").headers["set-cookie"]
    token = cookie.partition("=")[2].partition(";")[0]
    answer = console.post(path, data={"csrf": token, "confirmed": "yes"}, headers=OURS)
    assert answer.status_code in (404, 405)
    page = console.get("/run/one").text
    assert 'method="post"' not in page
    assert "read-only" in page


@pytest.mark.parametrize("path", ["/run/one/nonsense", "/run/one/__class__", "/act/cancel"])
def test_an_action_that_is_none_is_not_found(console: TestClient, waits: None, path: str) -> None:
    assert act(console, path).status_code == 404


def test_a_form_that_is_too_large_or_none_is_refused(console: TestClient, waits: None) -> None:
    assert act(console, "/run/one/emit", event="approved", data=f'"{"x" * (2 << 20)}"').status_code == 413
    assert act(console, "/run/one/cancel", **{f"field{n}": "x" for n in range(30)}).status_code == 400
    as_json = console.post("/run/one/cancel", json={"csrf": token_of(console), "confirmed": "yes"}, headers=OURS)
    assert as_json.status_code == 415
    form = {**OURS, "Content-Type": "application/x-www-form-urlencoded"}
    assert console.post("/run/one/cancel", content=b"\xff=\xfe", headers=form).status_code == 400


def test_an_action_is_logged(console: TestClient, order: Any, caplog: pytest.LogCaptureFixture) -> None:
    deliver(order, "book", "wait", id="one")
    with caplog.at_level(logging.INFO, "celery_steps.web"):
        act(console, "/run/one/pause")
        act(console, "/run/one/retry")
    assert [line.getMessage() for line in caplog.records] == [
        "testclient asked for pause one: done",
        "testclient asked for retry one: refused",
    ]


def test_the_log_says_which_user_asked_for_what_and_no_value(app: Celery, order: Any, caplog: pytest.LogCaptureFixture) -> None:
    deliver(order, id="one")
    console = client(app, auth=BasicAuth("ann\x1b", "correct horse"))
    console.headers.update(basic("ann\x1b", "correct horse"))
    with caplog.at_level(logging.INFO, "celery_steps.web"):
        act(console, "/run/one/fork", step=step("ship"), namespace="copy")
        act(console, "/act/emit", event="approved\n: done", to="x" * 300, data='"a secret"')
    fork, emit = (line.getMessage() for line in caplog.records)
    assert fork == "ann\\x1b at testclient asked for fork one step='1:ship' namespace='copy': done"
    assert emit.startswith("ann\\x1b at testclient asked for emit event='approved\\n: done' to='xxx")
    assert "secret" not in emit
    assert len(emit) < 400


# -- values -------------------------------------------------------------------------------------------------------------

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`{{7*7}}"


def test_what_a_journal_holds_is_never_markup(app: Celery, console: TestClient, order: Any) -> None:
    name = f"{MARKUP}{HOSTILE}"
    deliver(order, {MARKUP: HOSTILE}, name, id="one", headers={"steps_namespace": name})
    for path in ("/", "/run/one", f"/?q={MARKUP}&task={MARKUP}&since=1h"):
        page = console.get(path).text
        assert "<script>alert" not in page
        assert "<img" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert not {c for c in page if c != "\n" and not c.isprintable()}


def test_what_an_action_says_is_never_markup_nor_anybodys_words(console: TestClient, order: Any) -> None:
    deliver(order, id="one")
    answer = act(console, "/run/one/retry", step=step(MARKUP))
    page = console.get(answer.headers["location"]).text
    assert "<script>alert" not in page
    assert 'class="said refused"' in page
    assert 'class="said' not in console.get(answer.headers["location"]).text  # said once
    assert "call us" not in console.get("/run/one?said=call+us").text
