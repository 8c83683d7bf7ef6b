"""Makes the pictures in docs/images: `PYTHONPATH=tests python -m web.screenshots [FOLDER]`, with Chromium installed.

What they show is told in story.py, with fixed times; no Redis is asked. In another folder they come dark and narrow as well, to
be looked at.
"""

from __future__ import annotations

import sys
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

from celery import Celery
from playwright.sync_api import Browser

from celery_steps.web import create_app, rendering
from celery_steps.web.live import Live
from web.chromium import browsing, serving
from web.story import ID, ToldRuns, now

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PAGES = {"runs": "/", "list": f"/run/{ID}", "graph": f"/run/{ID}#graph", "timeline": f"/run/{ID}#timeline"}


class _Then(datetime):
    """The time at which the pictures are taken."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return now()


def take(browser: Browser, address: str, folder: Path, name: str = "{}", width: int = 1000, **options: object) -> None:
    for picture, path in PAGES.items():
        page = browser.new_page(base_url=address, viewport={"width": width, "height": 700}, **options)  # type: ignore[arg-type]
        page.goto(path)
        page.locator("#live").get_by_text("live").wait_for()
        if picture == "list":
            page.locator("details.step").nth(10).locator("summary").click()
            page.evaluate("document.activeElement.blur()")
        target = folder / f"{name.format(picture)}.png"
        # Two of them without the head of the page, which the third one shows.
        page.mouse.move(0, 0)
        page.evaluate("scrollTo(0, 0)")
        top = 0 if picture in ("runs", "timeline") else page.locator(".views").evaluate("e => e.getBoundingClientRect().top - 8")
        height = page.evaluate("document.documentElement.scrollHeight") - top
        clip: Any = {"x": 0, "y": top, "width": width, "height": height}
        page.screenshot(path=target, full_page=True, clip=clip, animations="disabled")
        print(f"{target}: {target.stat().st_size // 1000} kB")
        page.close()


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    console = create_app(Celery("shop", broker="redis://nowhere"))
    console.state.runs = runs = ToldRuns()
    console.state.live = Live(runs.version)
    with patch.object(rendering, "datetime", _Then), browsing() as browser, serving(console) as address:
        take(browser, address, folder)
        if folder.resolve() != IMAGES:
            take(browser, address, folder, "{}-dark", color_scheme="dark")
            take(browser, address, folder, "{}-phone", width=360)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
