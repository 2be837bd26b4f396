# SPDX-License-Identifier: Apache-2.0
"""The HTML report in a browser: it opens, answers to the keyboard, and can be read by everyone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from harness import reporting, results
from harness.results import Verdict
from tests.report.runs import VERIFIER_LOG, matrix

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")
_WAIT_S = 30  # for a machine with other things to do

pytestmark = pytest.mark.skipif(
    not (_BROWSER and _DRIVER), reason="no chromium and chromedriver (Debian: chromium-driver)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """A browser without network that remembers what its console said."""
    options = Options()
    options.binary_location = str(_BROWSER)
    for word in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = Chrome(options=options, service=Service(str(_DRIVER)))
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of ten kernels with every verdict, plot and kind of evidence, as it is written."""
    made = matrix(10)
    directory = tmp_path_factory.mktemp("report")
    log = directory / "kernels" / "x" / "p.log"
    log.parent.mkdir(parents=True)
    log.write_text(VERIFIER_LOG * 3)
    (log.parent / "console.log").write_text("[    0.000000] Linux version 5.10\n")
    results.write(made, directory / "results.json")
    for name, content in reporting.draw(made, directory).items():
        (directory / name).write_bytes(content)
    return directory / "report.html"


@pytest.fixture
def opened(browser: Chrome, page: Path) -> Iterator[Chrome]:
    """The page, wide, freshly loaded; whatever a test does, the console stays empty."""
    _open(browser, page, 1280)
    yield browser
    assert [entry["message"] for entry in browser.get_log("browser")] == []  # type: ignore[no-untyped-call]


def _open(browser: Chrome, page: Path, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get("about:blank")
    browser.get(page.as_uri())


def _one(browser: Chrome, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def _shown(browser: Chrome) -> list[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, ".matrix tbody tr")
    return [row.get_attribute("data-verdict") or "" for row in rows if row.is_displayed()]


def test_every_cell_of_the_matrix_leads_to_its_evidence(opened: Chrome) -> None:
    """No link to nothing."""
    dangling = opened.execute_script(
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.hash.slice(1))"
        ".filter((id) => !document.getElementById(decodeURIComponent(id)))"
    )

    assert dangling == []


def test_a_cell_opens_by_keyboard_and_escape_leads_back(opened: Chrome) -> None:
    """Tab into the matrix, arrows within, Enter opens, Escape closes and the place is kept."""
    first = _one(opened, ".matrix tbody th a")
    opened.execute_script("arguments[0].focus()", first)
    first.send_keys(Keys.ARROW_DOWN)
    below = opened.switch_to.active_element
    below.send_keys(Keys.ARROW_RIGHT)
    opened.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    cell = opened.switch_to.active_element
    label = cell.get_attribute("aria-label") or ""
    cell.send_keys(Keys.ENTER)
    drawer = _one(opened, "#drawer")

    assert label.startswith("5.4-newest, verifier: pass")
    assert drawer.is_displayed()
    assert "verifier" in _one(opened, "#drawer-title").text
    assert "5.4-newest" in _one(opened, "#drawer-title").text
    assert "objcheck load" in drawer.text
    assert "inv kernel-matrix --kernels 5.4-newest" in drawer.text
    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not drawer.is_displayed()
    assert opened.switch_to.active_element == cell


def test_a_verifier_log_shows_the_source_and_the_whole_file_is_in_the_page(
    opened: Chrome, page: Path
) -> None:
    """The lines of C are told from the instructions; the file is not beside the page any more."""
    elsewhere = page.parent / "elsewhere" / "report.html"
    elsewhere.parent.mkdir(exist_ok=True)
    shutil.copy(page, elsewhere)
    opened.get(elsewhere.as_uri())
    _one(opened, ".matrix a.v-fail").send_keys(Keys.ENTER)

    assert _one(opened, "#drawer .log .src").text.startswith("; BPF_CORE_READ(sk, sk_protocol)")
    _one(opened, "#drawer button.show").send_keys(Keys.ENTER)
    WebDriverWait(opened, _WAIT_S).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#drawer li pre")
    )
    shown = _one(opened, "#drawer li pre").get_property("textContent")
    assert isinstance(shown, str)
    assert shown.rstrip("\n") == (VERIFIER_LOG * 3).rstrip("\n")


def test_a_cell_of_resolve_marks_its_own_values_among_those_that_moved(opened: Chrome) -> None:
    """What does this field have here, and where is it elsewhere?"""
    _one(opened, "a[href='#k9-resolve']").send_keys(Keys.ENTER)
    marked = opened.find_elements(By.CSS_SELECTOR, "#drawer .outcome.here")
    others = opened.find_elements(By.CSS_SELECTOR, "#drawer .outcome:not(.here)")

    assert [one.text.split()[:2] for one in marked] == [["→", "1,000"]]
    assert [one.text.split()[0] for one in others] == ["968"]


def test_verdicts_can_be_filtered_by_keyboard(opened: Chrome) -> None:
    """Space on a box; the count of kernels is announced."""
    everything = _shown(opened)
    box = _one(opened, "input[name=verdict][value=pass]")
    opened.execute_script("arguments[0].focus()", box)
    box.send_keys(Keys.SPACE)
    left = _shown(opened)

    assert Verdict.PASS in everything
    assert left == [verdict for verdict in everything if verdict != Verdict.PASS]
    assert _one(opened, ".filters output").text == f"{len(left)} of {len(everything)} kernels"
    kernels = opened.find_elements(By.CSS_SELECTOR, "details.kernel")
    assert sum(kernel.is_displayed() for kernel in kernels) == len(left)


def test_causes_and_series_can_be_filtered_by_keyboard(opened: Chrome) -> None:
    """Letters in a list choose; the button brings everything back."""
    cause = _one(opened, "select[name=cause]")
    cause.send_keys("verifier")
    assert _shown(opened) == ["fail"]
    assert len(opened.find_elements(By.CSS_SELECTOR, "a.c.found")) == 1
    _one(opened, ".filters button[type=reset]").send_keys(Keys.ENTER)
    WebDriverWait(opened, _WAIT_S).until(lambda b: len(_shown(b)) == 10)
    _one(opened, "select[name=series]").send_keys("5.15")
    assert len(_shown(opened)) == 2


def test_colours_can_be_chosen_and_are_kept(opened: Chrome, page: Path) -> None:
    """Light, dark, or what the system prefers."""
    paper = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for theme in ("light", "dark"):
        _one(opened, f"button[data-theme={theme}]").send_keys(Keys.ENTER)
        seen[theme] = opened.execute_script(paper)
    opened.get(page.as_uri())
    again = opened.execute_script(paper)
    _one(opened, "button[data-theme='']").send_keys(Keys.ENTER)

    assert seen["light"] != seen["dark"] == again


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_sticks_out_of_the_page(opened: Chrome, page: Path, width: int) -> None:
    """Wide things scroll in their own boxes; the matrix keeps its heads in sight."""
    _open(opened, page, width)
    wide, room = opened.execute_script(
        "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
    )
    opened.execute_script("const m = document.querySelector('.matrix'); m.scrollTo(400, 60);")
    heads = opened.execute_script(
        "const at = (s) => document.querySelector(s).getBoundingClientRect(), m = at('.matrix');"
        "return [at('.matrix tbody th').left - m.left, at('.matrix thead th').top - m.top]"
    )

    assert wide == room
    assert all(abs(offset) < 3 for offset in heads)


@pytest.mark.parametrize(
    ("theme", "width", "drawer"),
    [
        ("light", 1280, False), ("dark", 1280, False), ("light", 400, False),
        ("light", 1280, True), ("dark", 400, True),
    ],
)  # fmt: skip
def test_the_accessibility_audit_finds_nothing(
    opened: Chrome, page: Path, theme: str, width: int, drawer: bool
) -> None:
    """axe-core over everything, with every evidence unfolded; contrast in both colours."""
    _open(opened, page, width)
    _one(opened, f"button[data-theme={theme}]").send_keys(Keys.ENTER)
    if drawer:
        opened.execute_script("document.querySelector('.matrix a.v-fail').click()")
    else:
        opened.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
    found = Axe().run(opened)
    violations = [
        f"{one['impact']} {one['id']}: {one['nodes'][0]['html']} {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
    ]

    assert violations == []
    assert len(found["passes"]) > 10
