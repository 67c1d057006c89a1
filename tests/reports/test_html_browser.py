"""Reports in a real browser: accessible by axe-core in light, dark and on a telephone, and quiet on the network."""

import base64
import json

import pytest

from fpvec_audit.reports.html import render_html, report_page
from tests.reports.browser import running_chromium
from tests.reports.html_documents import ATTACKS, EXCHANGES, FEW_ATTACKS, HARMLESS, INCONCLUSIVE, MATCH, NO_MATCH, TRACE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chromium")]

REPORTS = {
    "match": (MATCH, None),
    "no_match": (NO_MATCH, None),
    "inconclusive": (INCONCLUSIVE, None),
    "trace": (TRACE, None),
    "attacks": (ATTACKS, None),
    "few attacks": (FEW_ATTACKS, None),
    "harmless": (HARMLESS, None),
    "transcript": (MATCH, {MATCH["audit_id"]: EXCHANGES}),
}
VIEWS = {"desk": (1100, "light"), "dark": (1100, "dark"), "telephone": (360, "light")}
VARIED = ("match", "few attacks", "transcript")
"""Reports with every part that there is; the others share their colours and layout."""
GRAVE = {"serious", "critical"}
NEEDS_NO_SCRIPT = ("data:", "file:", "chrome:", "devtools:", "about:")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running_chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return the reports as files, by name."""
    directory = tmp_path_factory.mktemp("reports")
    for name, (document, transcripts) in REPORTS.items():
        html = render_html(document, report_page(document, transcripts), secret=transcripts is not None)
        (directory / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: directory / f"{name}.html" for name in REPORTS}


def look(browser, file, view):
    width, scheme = VIEWS[view]
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(file.as_uri())


@pytest.mark.parametrize(
    ("name", "view"),
    [*((name, "desk") for name in REPORTS), *((name, view) for name in VARIED for view in ("dark", "telephone"))],
)
def test_axe_finds_nothing_serious(browser, files, name, view):
    from axe_core_python.selenium import Axe

    look(browser, files[name], view)
    browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    found = Axe().run(browser)["violations"]
    grave = [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found if rule["impact"] in GRAVE]
    assert grave == []


@pytest.mark.parametrize("name", REPORTS)
def test_nothing_overflows_a_telephone(browser, files, name):
    look(browser, files[name], "telephone")
    browser.execute_script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    width = browser.execute_script("return document.documentElement.scrollWidth")
    assert width <= VIEWS["telephone"][0]


@pytest.mark.parametrize("name", REPORTS)
def test_no_request_leaves_the_page_and_nothing_is_blocked(browser, files, name):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    look(browser, files[name], "desk")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert files[name].as_uri() in asked
    assert all(url.startswith(NEEDS_NO_SCRIPT) for url in asked)
    assert len([url for url in asked if url.startswith("file:")]) == 1
    assert browser.get_log("browser") == []  # a violation of the page's own policy would be told here


@pytest.mark.parametrize("name", ["match", "attacks"])
def test_it_prints_with_the_numbers_of_every_figure(browser, files, name):
    look(browser, files[name], "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    heights = browser.execute_script(
        "return [...document.querySelectorAll('figure table')].map(table => table.getBoundingClientRect().height)"
    )
    assert heights
    assert all(height > 20 for height in heights)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_it_reads_the_same_without_scripts(browser, files):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        look(browser, files["transcript"], "desk")
        assert "The suspect knows the secret keys." in browser.page_source
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
