"""A person looks at runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from celery_steps import DurableTask, Runs
from delivering import deliver

VIEWS = ("list", "graph", "timeline")


def row(page: Page, text: str) -> Any:
    return page.locator("#runs tbody tr").filter(has_text=text)


def unfold(page: Page) -> None:
    page.locator("details").evaluate_all("all => all.forEach(one => (one.open = true))")


def test_the_list_is_filtered_and_searched(page: Page, order: Any) -> None:
    deliver(order, id="looked-fine")
    deliver(order, "no stock", id="looked-bad")
    page.goto("/")
    expect(row(page, "looked-fine")).to_contain_text("succeeded")
    page.get_by_label("Search").fill("looked")
    page.get_by_role("button", name="Show", exact=True).click()  # any status
    expect(page.locator("#runs tbody tr")).to_have_count(2)
    page.get_by_role("combobox", name="Status").select_option("failed")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(row(page, "looked-bad")).to_contain_text("ValueError: no stock")
    expect(row(page, "looked-fine")).to_have_count(0)
    page.get_by_role("link", name="Clear").click()
    expect(row(page, "looked-fine")).to_have_count(1)
    page.get_by_label("Search").fill("looked-fine")
    page.get_by_label("Search").press("Enter")
    expect(page.locator("h1")).to_have_text("looked-fine")


def test_each_view_has_an_address_and_shows_the_same_steps(page: Page, order: Any) -> None:
    deliver(order, id="views")
    page.goto("/run/views")
    for view in (*VIEWS, "list"):
        page.get_by_role("link", name=view.capitalize(), exact=True).click()
        assert page.url.endswith(f"#{view}")
        expect(page.locator(".view:visible")).to_have_id(view)
    page.go_back()
    page.reload()
    expect(page.locator(".view:visible")).to_have_id("timeline")
    keys = ["price", "check stock", "check credit", "ship"]
    assert page.locator("#timeline .name").all_text_contents() == keys
    assert page.locator("#graph .key").all_text_contents() == keys
    assert page.locator("#list h3").all_text_contents()[:-1] == keys


def test_a_step_in_a_picture_leads_to_what_is_known_of_it(page: Page, order: Any) -> None:
    deliver(order, id="details")
    page.goto("/run/details#graph")
    page.locator("#graph a").first.click()
    step = page.locator("details.step").first
    expect(step).to_have_attribute("open", "")
    expect(step).to_contain_text('"cents": 500')
    expect(step.locator("summary")).to_be_focused()
    page.get_by_role("link", name="Timeline", exact=True).click()
    page.locator("#timeline .rows a").last.click()
    expect(page.locator("details.step").last).to_contain_text('"shipped"')
    expect(page.locator("details.step").last).to_have_attribute("open", "")


def test_a_failed_step_shows_its_error_with_the_traceback(page: Page, order: Any) -> None:
    deliver(order, "no stock", id="trace")
    page.goto("/run/trace")
    expect(page.locator(".failure")).to_contain_text("ValueError: no stock")
    page.get_by_text("Traceback", exact=True).click()
    expect(page.locator(".failure pre")).to_contain_text("raise ValueError(end)")


def test_a_long_value_has_a_page_of_its_own(page: Page, order: Any) -> None:
    deliver(order, "ship", "x" * 9000, id="long")
    page.goto("/run/long")
    step = page.locator("details.step").first
    step.locator("summary").click()
    assert "x" * 2500 not in step.inner_text()
    step.get_by_role("link", name=re.compile("Show all 9,0.. characters")).first.click()
    assert "x" * 9000 in page.locator("details.step").inner_text()
    page.get_by_role("link", name="All steps of this run").click()
    expect(page.locator("details.step")).to_have_count(4)


def test_without_scripts_everything_is_below_each_other(open_page: Callable[..., Page], order: Any, runs: Runs) -> None:
    page = open_page(java_script_enabled=False)
    deliver(order, "wait", id="plain")
    page.goto("/run/plain")
    for view in VIEWS:
        expect(page.locator(f"#{view}")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("h1")).to_have_text("Really cancel plain?")
    assert runs.get("plain").status == "suspended"
    page.get_by_role("button", name="Yes, cancel").click()
    expect(page.locator(".said")).to_contain_text("Asked to end as cancelled")
    deliver(order, "wait", id="plain", headers={"steps_ticket": True})
    assert runs.get("plain").status == "cancelled"


HOSTILE = """<img src=x onerror="alert(1)">'"</script></textarea></title><script>alert(2)</script>{{ 7 * 7 }}&lt;b&gt;"""


def test_markup_in_names_and_values_is_text(page: Page, app: Any) -> None:
    name = f"order/{HOSTILE}"

    @app.task(bind=True, name=f"shop.{HOSTILE}", base=DurableTask)
    def hostile(self: DurableTask) -> None:
        self.step.log.warning(HOSTILE, data=HOSTILE)
        self.step.run(HOSTILE, {HOSTILE: HOSTILE}, lambda given: [HOSTILE, {HOSTILE: given}])
        self.step.progress(1, 2, HOSTILE)
        with self.step.parallel(max_workers=1) as side_by_side:
            side_by_side.sleep(f"sleep {HOSTILE}", "1h")
            side_by_side.wait_for_event(f"wait {HOSTILE}", HOSTILE)

    deliver(hostile, id="hostile", headers={"steps_namespace": name})
    page.goto("/")
    row(page, "order/<img").locator("th a").click()
    expect(page.locator("h1")).to_have_text(name)
    for view in VIEWS:
        page.get_by_role("link", name=view.capitalize(), exact=True).click()
        expect(page.locator(f"#{view}")).to_contain_text("<img src=x on")
    page.goto(page.url.split("#")[0] + "#list")
    unfold(page)
    assert HOSTILE in page.locator(".log .message").first.inner_text()
    assert page.locator("main img, main script, main title").count() == page.locator("svg title").count()
    assert page.locator("#emit-event").input_value() == HOSTILE
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Yes").click()
    expect(page.locator(".said")).to_contain_text("Asked to end as cancelled")
    assert page.title() == f"{name} · celery-steps"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_enough_contrast(open_page: Callable[..., Page], order: Any, pay: Any, scheme: Any) -> None:
    page = open_page(color_scheme=scheme)
    deliver(order, "no stock", id="contrast")
    deliver(order, "wait", id="contrast-waits")
    deliver(pay, id="contrast-pay")
    for path in ("/", "/run/contrast", "/run/contrast-waits#graph", "/run/contrast-pay#timeline"):
        page.goto("about:blank")
        page.goto(path)
        unfold(page)
        assert page.evaluate(CONTRAST) == [], path


#: Texts whose colour differs from what is behind them by less than 4.5 to 1; what is behind a text in a picture is not asked.
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (color) => {
    if (known.has(color)) return known.get(color);
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    known.set(color, [r, g, b, a / 255]);
    return known.get(color);
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((value, i) => value * a + under[i] * (1 - a));
  const behind = (element) => {
    const layers = [];
    for (let one = element; one; one = one.parentElement) layers.unshift(rgba(getComputedStyle(one).backgroundColor));
    return layers.reduce((under, layer) => over(layer, under), [255, 255, 255]);
  };
  const light = (color) => {
    const [r, g, b] = color.map((value) => value / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const under = behind(element);
    const text = over(rgba(element.closest("svg") ? style.fill : style.color), under);
    const [low, high] = [light(text), light(under)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) found.add(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 200)}`);
  }
  return [...found];
}"""


def test_a_theme_that_was_chosen_stays(page: Page, order: Any) -> None:
    page.goto("/")
    background = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    expect(page.get_by_role("button", name="Dark theme")).to_have_attribute("aria-pressed", "true")


def test_a_phone_shows_all_without_scrolling_sideways(open_page: Callable[..., Page], order: Any) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    long = "a" * 60 + "_" + "word " * 20
    deliver(order, long, long, id="phone", headers={"steps_namespace": f"order-{long}"})
    deliver(order, "wait", id="phone-waits")
    for path in ("/", "/run/phone", "/run/phone#graph", "/run/phone#timeline", "/run/phone-waits"):
        page.goto("about:blank")
        page.goto(path)
        unfold(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path


def test_a_page_is_structured_for_a_screen_reader(page: Page, order: Any) -> None:
    deliver(order, "wait", id="reader")
    for path in ("/", "/run/reader"):
        page.goto(path)
        assert page.locator("h1").count() == 1
        assert page.get_by_role("main").count() == 1
        assert page.locator("nav:not([aria-label])").count() == 0
        unnamed = "e => !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim() || e.type === 'hidden')"
        assert not [e for e in page.locator("input, select, textarea, button").all() if e.evaluate(unnamed)]
    levels = [int(tag[1]) for tag in page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(e => e.tagName)")]
    assert all(later - sooner <= 1 for sooner, later in pairwise(levels))
    page.get_by_role("link", name="Graph", exact=True).click()
    expect(page.get_by_role("link", name="approved: wait_for_event order.approved, waiting")).to_be_visible()
    page.get_by_role("link", name="Timeline", exact=True).click()
    expect(page.get_by_role("img", name="1 attempt: 1 suspended")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text="approved: wait_for_event")).to_contain_text("after the run")
