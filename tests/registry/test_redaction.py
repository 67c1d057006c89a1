import json

import pytest

from fpvec_audit.registry.redaction import Redaction

PROMPT = "山川é雨\"雪'星\\海"


@pytest.mark.parametrize("write", [str, repr, ascii, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)])
def test_prompt_is_taken_out_however_it_is_written(write):
    redaction = Redaction()
    redaction.know([PROMPT, ""])
    told = redaction.text(f"cannot ask {write(PROMPT)}, nor anything else")
    assert "[prompt]" in told
    assert told.endswith("nor anything else")
    assert not [letter for letter in "山川雨雪星海" if letter in told or f"{ord(letter):04x}" in told]


def test_what_holds_no_prompt_stays_as_it_is_and_nothing_shows():
    redaction = Redaction()
    redaction.know([PROMPT])
    assert redaction.text("out of memory") == "out of memory"
    assert "山" not in repr(redaction)
