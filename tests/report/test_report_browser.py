"""The report in a real browser: silent, self-contained, accessible, and as wide as the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report.report_folders import HOSTILE, decide, other_samples, whole_folder

from benchmarks.browser import chromium
from sgsc_edge.report import read_build, render
from sgsc_edge.report.sections.flips import SHOWN

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless."""
    pytest.importorskip("playwright.sync_api")
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("pages")
    plain = whole_folder(folder / "plain", max_drop=0.01)
    hostile = whole_folder(folder / "hostile", name=HOSTILE * 4)

    builds = {
        "failed": read_build(plain),
        "passed": other_samples(plain, (12, 9, 3), stated=(3, 12, 9)),
        "plots": other_samples(plain, (1, 40, 2), stated=(2, 40), edit=lambda arrays: decide(arrays, 50)),
        "hostile": read_build(hostile),
        "many": other_samples(
            plain, (9, 12, 1), classes=100, stated=(1, 9, 12), edit=lambda arrays: decide(arrays, 50)
        ),
    }
    found = {}
    for name, build in builds.items():
        found[name] = folder / f"{name}.html"
        found[name].write_bytes(render(build))
    return found


@pytest.mark.parametrize(
    ("kind", "scheme"),
    [("failed", "light"), ("failed", "dark"), ("plots", "light"), ("passed", "dark"), ("hostile", "light")],
)
def test_it_opens_silently_alone_and_accessibly(
    browser: Any, pages: dict[str, Path], kind: str, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    # Content scripts of the test itself (axe) are let in past the page's own policy.
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme=scheme, bypass_csp=True
    )
    try:
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        for details in page.query_selector_all("details"):
            details.evaluate("one => one.open = true")
        width = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert width[0] <= width[1], "the page itself scrolls sideways"
        found = axe.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
        assert said == []
    finally:
        context.close()


def test_many_pictures_and_classes_fit_a_phone(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(pages["many"].as_uri())
    loaded = page.evaluate("[...document.images].map(one => one.complete && one.naturalWidth > 0)")
    assert loaded == [True] * SHOWN
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_page_s_own_policy_stops_scripts_and_requests(
    browser: Any, pages: dict[str, Path], tmp_path: Path
) -> None:
    """Were a name to get through unescaped, it could still do nothing."""
    changed = tmp_path / "changed.html"
    image = tmp_path / "other.svg"
    image.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>')
    injected = f"<script>document.title='run'</script><img id='outside' src='{image.as_uri()}' alt=''></main>"
    changed.write_bytes(pages["passed"].read_bytes().replace(b"</main>", injected.encode()))
    page = browser.new_page()
    page.goto(changed.as_uri())
    assert page.title() == "many for tflite-int8: passed"
    assert page.evaluate("document.getElementById('outside').naturalWidth") == 0
    page.close()


def test_print_is_on_white_and_shows_what_is_folded(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(color_scheme="dark")
    try:
        page = context.new_page()
        page.goto(pages["failed"].as_uri())
        background = "getComputedStyle(document.body).backgroundColor"
        unfolded = "document.querySelector('details .scroll').checkVisibility({contentVisibilityAuto: true})"
        assert page.evaluate(background) != "rgb(255, 255, 255)"
        assert not page.evaluate(unfolded)
        page.emulate_media(media="print")
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        assert page.evaluate(unfolded)
        assert page.pdf(format="A4").startswith(b"%PDF")
    finally:
        context.close()
