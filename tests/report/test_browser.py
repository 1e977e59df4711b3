# SPDX-License-Identifier: Apache-2.0
"""The pages in a real browser: nothing sticks out, is loaded or complained about, and they print."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from report.browser import Browser, Tab, browser
from report.samples import ALL, failing_alike, passing

from linfdeploy.report import write_report
from linfdeploy.report.compare import compared, read_side
from linfdeploy.report.compare_page import write_comparison

# What lies in a box that scrolls may stick out of the window.
STICKING_OUT = """[...document.querySelectorAll('body *')].filter(item => !item.closest('.scroll') &&
  item.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map(item => item.tagName + '.' + item.className)"""
SMALLEST_TEXT = """Math.min(...[...document.querySelectorAll('svg.plot')].flatMap(plot =>
  [...plot.querySelectorAll('text')].map(text => parseFloat(getComputedStyle(text).fontSize) *
    plot.getBoundingClientRect().width / plot.viewBox.baseVal.width)))"""
OVERLAPS = """[...document.querySelectorAll('svg.plot')].flatMap(plot => {
  const boxes = [...plot.querySelectorAll('text.tick.x')].map(text => text.getBoundingClientRect())
  return boxes.slice(1).filter((box, i) => box.left < boxes[i].right).map(() => plot.getAttribute('class'))})"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def _pages(name: str, folder: Path) -> Path:
    if name != "compare":
        return write_report(ALL[name](), folder).html
    sides = [write_report(make(), folder / side).json for side, make in (("a", passing), ("b", failing_alike))]
    return write_comparison(compared(*map(read_side, sides)), folder)


@pytest.mark.parametrize("name", ["passing", "failing", "bare", "infinite", "compare"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_is_loaded_or_complained_about(
    name: str, width: int, started: Browser, tmp_path: Path
) -> None:
    page = _pages(name, tmp_path)
    tab = Tab(started, page, width)
    assert tab.value("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.value(STICKING_OUT) == []
    assert tab.complaints() == []
    requests = tab.requests()
    assert requests[0] == page.as_uri()
    assert all(address.startswith("data:image/png;base64,") for address in requests[1:])


def test_pictures_are_drawn_and_enlarged_without_blur(started: Browser, tmp_path: Path) -> None:
    tab = Tab(started, _pages("passing", tmp_path), 1280)
    sizes = "[...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight])"
    assert tab.value(sizes) == [[True, 8, 8], [True, 8, 8], [True, 4, 2]]
    assert tab.value("[...document.images].every(i => getComputedStyle(i).imageRendering === 'pixelated')")
    assert tab.value("Math.min(...[...document.images].map(image => image.getBoundingClientRect().width))") > 80


@pytest.mark.parametrize("width", [390, 1280])
def test_texts_of_plots_can_be_read(width: int, started: Browser, tmp_path: Path) -> None:
    tab = Tab(started, _pages("passing", tmp_path), width)
    assert tab.value(SMALLEST_TEXT) >= 10
    assert tab.value(OVERLAPS) == []


def test_follows_the_choice_of_dark(started: Browser, tmp_path: Path) -> None:
    page = _pages("passing", tmp_path)
    grounds = {
        Tab(started, page, 1280, dark=dark).value("getComputedStyle(document.body).backgroundColor")
        for dark in (False, True)
    }
    assert grounds == {"rgb(251, 250, 248)", "rgb(21, 24, 27)"}


def test_prints_on_few_pages(started: Browser, tmp_path: Path) -> None:
    pdf = Tab(started, _pages("passing", tmp_path), 1280).print()
    assert pdf.startswith(b"%PDF")
    assert 3 <= pdf.count(b"/Type /Page\n") <= 8
