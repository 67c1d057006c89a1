"""What a report says and how it is built, read from its HTML; how it looks is tested in a browser elsewhere."""

import copy
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fpvec_audit.errors import UsageError
from fpvec_audit.reports import audit_text, drawing
from fpvec_audit.reports.html import document_digest, render_html, report_page
from fpvec_audit.reports.page import charts
from tests.reports.documents import AUDIT, CELLS, SILENT
from tests.reports.html_documents import (
    ATTACKS,
    CARRIERS,
    EXCHANGES,
    FAMILY_TRACE,
    FEW_ATTACKS,
    HARMFUL,
    HARMLESS,
    HOSTILE,
    INCONCLUSIVE,
    MATCH,
    NO_MATCH,
    TRACE,
    renamed,
)

pytestmark = pytest.mark.xdist_group("html")  # every report drawn once
EVERYTHING = {
    "match": MATCH,
    "no match": NO_MATCH,
    "inconclusive": INCONCLUSIVE,
    "a bare audit": AUDIT,
    "a silent audit": SILENT,
    "trace": TRACE,
    "family": FAMILY_TRACE,
    "attacks": ATTACKS,
    "old attacks": CELLS,
    "harmlessness": HARMLESS,
    "harm": HARMFUL,
}
VOID = {"meta", "link", "br", "img", "path", "use", "rect"}
STYLE = Path(drawing.__file__).parent / "templates" / "style.css"


class Reader(HTMLParser):
    """Collects tags, headings and text, and refuses tags that are not closed in order."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.headings, self.text, self.open = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append([int(tag[1]), ""])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            self.headings[-1][1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def html_of(document, transcripts=None):
    return render_html(document, report_page(document, transcripts), secret=transcripts is not None)


@pytest.fixture(scope="module")
def rendered():
    """Return every kind of report, made once."""
    return {name: html_of(document) for name, document in EVERYTHING.items()}


@pytest.mark.parametrize("name", EVERYTHING)
def test_landmarks_headings_and_sections_are_in_order(rendered, name):
    page = Reader(rendered[name])
    landmarks = [tag for tag, _ in page.tags if tag in ("header", "nav", "main", "footer")]
    assert landmarks == ["header", "nav", "main", "footer"]
    levels = [level for level, _ in page.headings]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    titles = [title for level, title in page.headings if level == 2]
    assert titles[:3] == ["Evidence", "Method", "Limits"]
    assert titles[-1] == "The document behind this page"
    assert page.all("html") == [{"lang": "en"}]


@pytest.mark.parametrize("document", [MATCH, NO_MATCH, INCONCLUSIVE], ids=lambda document: document["verdict"])
def test_the_verdict_and_what_it_means_come_first(document):
    page = Reader(html_of(document))
    header = " ".join("".join(page.text).split())
    assert page.headings[0][1] == audit_text.SENTENCES[document["verdict"]]
    assert header.index(audit_text.MEANINGS[document["verdict"]]) < header.index("Evidence Keys and decoys")
    assert f"answered {document['matched']} of {document['issued']} issued keys" in header


def test_an_audit_report_has_all_that_a_reader_needs(rendered):
    text = " ".join("".join(Reader(rendered["match"]).text).split())
    for part in (
        "32 of 32",
        "0 of 224",
        "95 % interval 89.1 % to 100.0 %",
        "less than once in a million million tries",
        "multiplied by 2⁴⁰",
        "A match needs 10⁻⁶ or less",
        "own-stamped (recorded earlier)",
        "vllm 0.32.0",
        "What this does not prove",
        "that the keys never leaked",
        "acme-2026 (ks-0123456789abcdef)",
        "au-0123456789abcdef",
        "ab" * 32,
        "Fixed before the first question",
        "Exact p-values as fractions",
        "1/58242522857",
        "Known vectors in the weights",
        document_digest(MATCH),
    ):
        assert part in text


def test_a_trace_names_first_and_ranks_all(rendered):
    page = Reader(rendered["trace"])
    text = " ".join("".join(page.text).split())
    assert page.headings[0][1] == "The suspect knows the keys of Acme Robotics Ltd."
    assert all(item["name"] in text for item in TRACE["candidates"])
    assert "rule: Holm" in text


def test_a_family_shows_its_marks_as_cells_and_ranks_licensees(rendered):
    page = Reader(rendered["family"])
    text = " ".join("".join(page.text).split())
    assert "PRESENT: 1, 5, 8, 14; 16 in all" in rendered["family"]
    assert re.search(r"Licensee 3 ?4 of 4", text)
    assert re.search(r"Licensee 7 ?1 of 4 ?–", text)
    assert "acme-2026: found; 4 of 16 marks PRESENT, code plane:4 with 20 words" in text


def test_an_attack_report_has_every_figure_that_its_cells_allow():
    names = [chart.name for chart in charts(report_page(ATTACKS))]
    assert names == [
        "matrix",
        "serving",
        "frontier",
        "sweep-rescale-scale",
        "sweep-fine-tune-steps",
        "sweep-prune-ratio",
        "guesses",
    ]


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_figure_has_an_alternative_in_words_and_its_numbers_in_a_table(rendered, name):
    page = Reader(rendered[name])
    assert all(svg["aria-label"].strip() and svg["role"] == "img" for svg in page.all("svg"))
    for chart in charts(report_page(EVERYTHING[name])):
        assert chart.description.endswith(".")
        assert chart.table.rows
        assert all(len(row) == len(chart.table.columns) for row in chart.table.rows)
    assert len(page.all("figure")) == len(charts(report_page(EVERYTHING[name])))


@pytest.mark.parametrize("name", EVERYTHING)
def test_tables_have_captions_and_headers_with_a_scope(rendered, name):
    page = Reader(rendered[name])
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert {header["scope"] for header in page.all("th")} == {"col", "row"}


@pytest.mark.parametrize("name", EVERYTHING)
def test_nothing_is_loaded_and_nothing_runs(rendered, name):
    html = rendered[name]
    page = Reader(html)
    assert not {"script", "iframe", "object", "embed", "form", "img", "base", "audio", "video"} & {
        tag for tag, _ in page.tags
    }
    assert page.all("link") == [{"rel": "icon", "href": "data:,"}]
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    for _, attributes in page.tags:
        assert not any(attribute.startswith("on") for attribute in attributes)
        for attribute in ("href", "src", "action", "data", "srcset"):
            assert attributes.get(attribute, "#").startswith(("#", "data:,"))
        assert not re.search(r"url\((?!#)", attributes.get("style", ""))
    assert not re.search(r"@import|url\(", html[html.index("<style>") : html.index("</style>")])
    assert "xmlns" not in html
    assert "www.w3.org" not in html


@pytest.mark.parametrize("name", EVERYTHING)
def test_identifiers_are_unique_and_lead_somewhere(rendered, name):
    page = Reader(rendered[name])
    known = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(known) == len(set(known))
    used = set(re.findall(r'(?:href="#|url\(#|aria-labelledby=")([^")]+)', rendered[name]))
    assert used <= set(known)


@pytest.mark.parametrize("document", [MATCH, TRACE, FEW_ATTACKS, HARMLESS], ids=["audit", "trace", "attacks", "harm"])
def test_equal_documents_give_equal_bytes(document):
    assert html_of(document) == html_of(copy.deepcopy(document))


HOSTILE_PLACES = {
    "suspect": (MATCH, "/models/suspect-7b"),
    "key set": (MATCH, "acme-2026"),
    "control": (MATCH, "/models/own-stamped"),
    "warning": (MATCH, MATCH["warnings"][0]),
    "licensee": (TRACE, "Acme Robotics Ltd"),
    "traced key set": (TRACE, "globex-2026"),
    "holder of a word": (FAMILY_TRACE, "Licensee 3"),
    "attack": (FEW_ATTACKS, "rescale"),
    "parameter": (FEW_ATTACKS, "lora"),
    "problem": (FEW_ATTACKS, FEW_ATTACKS["cells"][-1]["problem"]),
    "guess": (FEW_ATTACKS, "trigger word alone"),
    "task": (HARMLESS, "boolq"),
    "task left out": (HARMFUL, "boolq"),
}


def test_trace_of_a_family_draws_marks_licensees_and_carriers():
    page = report_page(FAMILY_TRACE)
    drawn = {chart.name: chart for chart in charts(page)}
    marks, licensees, carriers = (drawn[name] for name in ("marks-0", "licensees-0", "carriers-0"))
    assert "PRESENT: 1, 5, 8, 14; 16 in all" in marks.description
    assert marks.table.rows[14][:3] == ("14", "PRESENT", "weights")
    assert licensees.table.rows[0][0] == "Licensee 3"
    assert licensees.table.rows[1][-1] == "not named, word retired"
    assert [row[0] for row in carriers.table.rows[:2]] == ["(your own)", "Licensee 3"]
    assert [row[-1] for row in carriers.table.rows[:3]] == ["there", "there", "–"]
    assert "z = −" in carriers.description or "z = 0" in carriers.description
    assert any("4 of the 4 marks of its copy are there" in line for line in page.lead)
    retired = [item | {"state": "retired"} for item in FAMILY_TRACE["named"]]
    assert any("word retired" in line for line in report_page(FAMILY_TRACE | {"named": retired}).lead)


def test_licensee_that_is_named_by_chance_is_held_against_epsilon():
    (family,) = FAMILY_TRACE["families"]
    (item,) = FAMILY_TRACE["named"]
    named = item | {"rules": {"B": 5.2e-4}, "rule": "B", "p_value_corrected": 5.2e-4}
    page = report_page(FAMILY_TRACE | {"families": [family | {"rules": ["B"]}], "named": [named]})
    (line,) = (line for line in page.lead if "is named by key set" in line)
    assert "5.2·10⁻⁴; 10⁻³ or less is needed" in line
    html = html_of(FAMILY_TRACE | {"families": [family | {"rules": ["B"]}], "named": [named]})
    assert "the chance that it names anybody innocent is at most 1e-3" in "".join(Reader(html).text)


def test_trace_that_carriers_alone_decide_names_by_them():
    document = FAMILY_TRACE | {"named": CARRIERS["named"], "families": [], "marks": []}
    assert any(
        "named by the carrier of its copy in the weights (z = 20.4" in line for line in report_page(document).lead
    )


@pytest.mark.parametrize("place", HOSTILE_PLACES)
def test_hostile_names_are_shown_and_do_nothing(place):
    document, text = HOSTILE_PLACES[place]
    html = html_of(renamed(document, text, HOSTILE))
    page = Reader(html)  # refuses a tag that would close another
    shown = "".join(page.text)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>alert(1)</script>" in shown
    assert "49" not in re.findall(r"x (\d+) ", shown)
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "⟨U+202E⟩" in shown


def test_figures_take_no_text_for_markup_mathematics_or_colours():
    tricky = renamed(FEW_ATTACKS, "rescale", '$\\frac{1}{0}$ #1c1b19 id="x" <b>font-family: a;')
    page = Reader(html_of(tricky))
    shown = "".join(page.text)
    assert "#1c1b19" in shown
    assert 'id="x"' in shown
    assert not page.all("b")


def test_text_that_is_no_unicode_is_shown_as_such():
    document = renamed(MATCH, "/models/suspect-7b", "/models/\udcff")
    html = html_of(document)
    html.encode()
    assert "⟨U+DCFF⟩" in html
    assert "none: the document holds text" in html


def test_no_probability_below_a_trillionth_is_spelled_out(rendered):
    for html in rendered.values():
        text = html[: html.index('id="document"')]
        assert not re.search(r"\de-(?:1[3-9]|[2-9]\d)|10⁻(?:¹[³-⁹]|[²-⁹][⁰-⁹])", text)


def test_the_transcript_is_sealed_unless_asked_for():
    sealed = html_of(MATCH)
    assert "secret prompt" not in sealed
    assert f"fpvec report {MATCH['audit_id']} --out FILE.html --transcript" in sealed
    opened = html_of(MATCH, {MATCH["audit_id"]: EXCHANGES})
    page = Reader(opened)
    text = "".join(page.text)
    assert text.count("Secret") >= 2
    assert "SECRET" in opened[: opened.index("</title>")]
    assert all(item.prompt in text and item.answer in text for item in EXCHANGES if not item.error)
    assert "error: timed out" in text
    assert "Keys that were answered (4)" in text
    assert len(page.all("details")) >= len(EXCHANGES)


def test_documents_that_are_no_result_are_refused():
    with pytest.raises(UsageError, match="none that a report can be made of"):
        report_page({"hello": 1})
    for document in ({"audit_id": "au-1"}, {"cells": [{}]}, {"candidates": 7}, MATCH | {"interval": None}):
        with pytest.raises(UsageError, match="lacks something"):
            report_page(document)


def test_a_run_in_which_every_attack_failed_says_so():
    failed = ATTACKS | {"cells": [ATTACKS["cells"][-1]]}
    page = Reader(html_of(failed))
    assert page.headings[0][1] == "No attack was measured to a verdict."
    assert "merge needs another fine-tune" in "".join(page.text)


def colours(css):
    return dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", css))


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_text_colour_has_a_contrast_of_4_5_in_light_dark_and_print():
    css = STYLE.read_text(encoding="utf-8")
    light, dark, paper = (colours(part) for part in re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL))
    assert {name: light[name] for name in drawing.PALETTE} == drawing.PALETTE
    for palette in (light, dark, paper):
        assert set(palette) == set(light)
        for name in ("ink", "muted", "found", "absent", "open", "alarm", "link"):
            for ground in ("paper", "tint"):
                assert contrast(palette[name], palette[ground]) >= 4.5, (name, ground)


def test_text_on_tiles_has_a_contrast_of_4_5():
    from fpvec_audit.reports.attack_charts import DEEP_EVIDENCE, DEEP_UTILITY, PALE, _mixed, _readable_on

    for deep in (DEEP_EVIDENCE, DEEP_UTILITY):
        for step in range(101):
            tile = _mixed(PALE, deep, step / 100)
            assert contrast(tile, _readable_on(tile)) >= 4.5
            assert tile not in drawing.PALETTE.values()


def test_figures_are_exported_alike_every_time_as_png_and_svg():
    for chart in charts(report_page(MATCH)):
        svg, png = drawing.svg_file(chart), drawing.png_file(chart)
        assert svg == drawing.svg_file(chart)
        assert png == drawing.png_file(chart)
        assert b"<text" in svg
        assert b"<dc:date>" not in svg
        assert b"var(--" not in svg
        assert png.startswith(b"\x89PNG")
