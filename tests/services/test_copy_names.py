from pathlib import Path

from fpvec_audit.services.copy_names import LONGEST_NAME, copy_name
from fpvec_audit.tensors.staging import STAGING_MARK


def test_copy_in_the_making_has_a_name_that_a_disk_takes():
    assert LONGEST_NAME + len(f".{STAGING_MARK}") + 8 == 255


def test_names_are_whole_as_long_as_they_fit():
    fitting = "x" * (LONGEST_NAME - len("chat-"))
    assert copy_name(Path("/m/chat"), fitting) == f"chat-{fitting}"
    assert copy_name(Path("/m/chat"), "A & B, Ltd.") == "chat-A-B-Ltd"
    assert copy_name(Path("/m/chat"), "") == "chat"


def test_long_names_are_cut_between_characters_and_stay_apart():
    one, other = (copy_name(Path("/m/chat"), "ü" * 199 + end) for end in "ab")
    assert one != other
    assert one.startswith("chat-üüü")
    assert len(one.encode()) <= LONGEST_NAME
    long = Path("/m") / ("m" * 250)
    assert len({copy_name(long, name) for name in ("Globex", "Initech")}) == 2
    assert copy_name(Path("/m") / ("m" * 249 + "n"), "Globex") != copy_name(long, "Globex")
