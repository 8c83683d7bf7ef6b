"""The console inside another application, under a prefix."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from fastapi import FastAPI
from starlette.testclient import TestClient

from celery_steps import Runs
from celery_steps.web import create_app
from delivering import deliver
from servers import server_is_missing
from web.browsing import OURS, links

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def api(app: Celery) -> TestClient:
    api = FastAPI()
    api.mount("/ops/steps", create_app(app))

    @api.get("/run/one")
    def of_the_api() -> str:
        return "not the console's"

    return TestClient(api, base_url="http://localhost", follow_redirects=False)


def test_in_fastapi_every_address_has_the_prefix(api: TestClient, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    for path in ("/ops/steps/", "/ops/steps/run/one", "/ops/steps/run/nobody"):
        page = api.get(path).text
        addresses = links(page) + re.findall(r'(?:src|action|data-live-url|<link[^>]* href)="([^"]*)"', page)
        assert len(addresses) > 3
        assert [address for address in addresses if not address.startswith("/ops/steps/")] == []
    for address in re.findall(r'(?:src|<link[^>]* href)="([^"]*)"', page):
        assert api.get(address).status_code == 200
    assert api.get("/run/one").json() == "not the console's"


def test_in_fastapi_actions_lead_back_below_the_prefix(api: TestClient, runs: Runs, order: Any) -> None:
    deliver(order, "book", "wait", id="one")
    answer = api.get("/ops/steps/run/one")
    assert "; Path=/ops/steps;" in answer.headers["set-cookie"]
    (token, *_) = re.findall(r'name="csrf" value="([^"]+)"', answer.text)
    answer = api.post("/ops/steps/run/one/pause", data={"csrf": token, "confirmed": "yes"}, headers=OURS)
    assert answer.headers["location"] == "/ops/steps/run/one?said"
    assert runs.get("one").status == "paused"
    assert "start no further step" in api.get(answer.headers["location"]).text
    assert api.post("/ops/steps/run/one/unpause", data={"csrf": token, "confirmed": "yes"}).status_code == 403


def test_in_fastapi_its_safety_is_its_own(api: TestClient) -> None:
    assert api.get("/ops/steps/", headers={"Host": "evil.example"}).status_code == 400
    assert "content-security-policy" in api.get("/ops/steps/nothing").headers
    assert "content-security-policy" not in api.get("/run/one").headers


_IN_DJANGO = """
import json, sys, types
from celery import Celery
from django.conf import settings

settings.configure(
    SECRET_KEY="x" * 50, ALLOWED_HOSTS=["shop.example"], ROOT_URLCONF="urls", USE_TZ=True,
    DATABASES={{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
)
sys.modules["urls"] = urls = types.ModuleType("urls")
urls.urlpatterns = []
app = Celery({main!r}, broker={broker!r})
app.conf.steps_backend = {backend!r}
sys.modules["proj"], sys.modules["proj.celery"] = types.ModuleType("proj"), types.ModuleType("proj.celery")
sys.modules["proj.celery"].app = app

{code}

from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.db.backends.signals import connection_created
from starlette.testclient import TestClient

call_command("migrate", verbosity=0)


def session_of(user):
    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session.save()
    return session.session_key


staff, other = (User.objects.create(username=name, is_staff=name == "ann") for name in ("ann", "bob"))
found, connections = {{}}, []
connection_created.connect(lambda connection, **_: connections.append(connection), weak=False)
for who, key in (("staff", session_of(staff)), ("other", session_of(other)), ("stranger", "x" * 32), ("nobody", "")):
    client = TestClient(application, base_url="http://shop.example", cookies={{"sessionid": key}} if key else {{}})
    answer = client.get("/steps/run/one")
    found[who] = [answer.status_code, "shop.order" in answer.text, 'href="/steps/"' in answer.text]
    found["django"] = client.get("/nothing").status_code
    found["without a slash"] = client.get("/steps", follow_redirects=False).headers["location"]
found["connections left open"] = sum(made.connection is not None for made in connections)
assert connections  # those of the threads in which `staff` is asked
print(json.dumps(found))
"""


def test_in_django_who_is_staff_gets_in(app: Celery, order: Any, tmp_path: Path) -> None:
    if find_spec("django") is None:
        server_is_missing("django")
    deliver(order, id="one")
    (code,) = re.findall(r"^```python asgi\.py\n(.*?)^```", (ROOT / "docs" / "console.md").read_text(), re.DOTALL | re.MULTILINE)
    program = _IN_DJANGO.format(main=app.main, broker=app.conf.broker_url, backend=app.conf.steps_backend, code=code)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "staff": [200, True, True],
        "other": [403, False, False],
        "stranger": [403, False, False],
        "nobody": [403, False, False],
        "django": 404,
        "without a slash": "/steps/",
        "connections left open": 0,
    }
