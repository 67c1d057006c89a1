import ast
import inspect
import re
from pathlib import Path

from fpvec_audit import hookspecs
from fpvec_audit.catalog import HOOKS

GUIDE = Path(__file__).parent.parent / "docs" / "plugins.md"


def signatures():
    tree = ast.parse(inspect.getsource(hookspecs))
    return {
        node.name: f"{node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


def test_the_guide_has_a_heading_with_every_hooks_exact_signature_and_no_other():
    headings = re.findall(r"^### `(fpvec_.*)`$", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    assert sorted(headings) == sorted(signatures().values())


def test_the_catalog_calls_every_hook():
    assert set(HOOKS) == set(signatures())


def test_every_hook_is_documented_where_it_is_specified():
    assert all(inspect.getdoc(getattr(hookspecs, name)) for name in signatures())
