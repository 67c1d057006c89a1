"""The table of dishonest accusers in the documentation names tests that exist, and some of every module of attacks."""

import re
from pathlib import Path

TABLE = (
    (Path(__file__).parents[2] / "docs" / "evidence.md").read_text(encoding="utf-8").split("## Dishonest accusers")[1]
)
MODULES = {
    path.stem: re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name != Path(__file__).name
}


def test_every_row_names_a_test_that_exists():
    named = re.findall(r"`(test_\w+)` \|$", TABLE, re.MULTILINE)
    rows = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith("| **")]
    assert len(named) == len(rows) - 1  # but for the heading
    assert set(named) <= {name for names in MODULES.values() for name in names}
    assert all(set(named).intersection(names) for names in MODULES.values())
