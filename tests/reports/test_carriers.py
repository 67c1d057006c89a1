import io

import pytest
from rich.console import Console

from fpvec_audit.domain.carrier_test import judged
from fpvec_audit.reports.carriers import render_carriers


def document(owner, licensees):
    own, found = judged(owner, licensees, alpha=1e-6, allowance=1 << 40)
    named = [{**item.to_json(), "rule": "carrier"} for item in found if item.present]
    return {
        "owner": own.to_json(),
        "named": named,
        "candidates": len(found),
        "largest_z_of_others": max((item.z for item in found if not item.present), default=None),
        "reference": {"path": "chat", "model": "0123456789abcdef", "role": "downstream"},
        "elements": 1000,
        "shared_elements": 1000,
        "alpha": 1e-6,
        "committed_at": "2026-01-02T03:04:05.000678+00:00",
        "grinding_allowance": 1 << 40,
        "remarks": [],
        "does_not_prove": ["culprits"],
        "seconds": 1.5,
    }


@pytest.mark.parametrize(
    ("owner", "licensees", "sentence"),
    [
        (40.0, {"Globex [EU]": 30.0, "Initech": 1.0}, "The weights hold the carrier of Globex [EU]."),
        (40.0, {"Globex": 20.0, "Initech": 21.0}, "The weights hold the carrier of Initech and of Globex."),
        (40.0, {"Globex": 2.0}, "The weights hold your own carrier, and no licensee's that can be told"),
        (1.0, {"Globex": 2.0}, "No carrier was found."),
    ],
)
def test_one_sentence_says_whose_carriers_are_there(owner, licensees, sentence):
    told = io.StringIO()
    render_carriers(document(owner, licensees), Console(file=told, width=120))
    text = told.getvalue()
    assert sentence in text
    assert ("< 1e-12" in text) == (owner > 30)  # never a smaller p in prose
    assert "compared with the downstream" in text
