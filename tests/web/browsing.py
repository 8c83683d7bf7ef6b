"""What a person does in a browser, over the test client."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlsplit

from celery_steps.web.rendering import packed

#: Sent by browsers with the forms of a page that this host has served.
OURS = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}


def token_of(console: Any) -> str:
    """The token that the console's pages hold for this browser."""
    found = re.search(r'name="csrf" value="([^"]+)"', console.get("/").text)
    assert found is not None
    return found[1]


def act(console: Any, path: str, **fields: str) -> Any:
    """Send an action's form, confirmed."""
    return console.post(path, data={"csrf": token_of(console), "confirmed": "yes", **fields}, headers=OURS)


def told(console: Any, answer: Any) -> str:
    """What the page that follows an action says of it."""
    assert answer.status_code == 303, answer.text
    said = re.search(r'<p class="said[^>]*>(.*?)</p>', console.get(answer.headers["location"]).text, re.DOTALL)
    assert said is not None
    return unescape(re.sub("<[^>]*>", "", said[1]))


def step(key: str, sequence: int = 1) -> str:
    return f"{sequence}:{packed(key)}"


def links(page: str) -> list[str]:
    """The paths, with their queries, to which a page leads."""
    found = [unescape(link) for link in re.findall(r'<a [^>]*href="([^"#]*)"', page)]
    assert not [link for link in found if urlsplit(link).netloc]
    return found
