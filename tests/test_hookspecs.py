import ast
import inspect
import re
from pathlib import Path

import pytest

from fpvec_audit import hookspecs
from fpvec_audit.catalog import HOOKS
from fpvec_audit.domain import ports

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


def members(protocol):
    """Return every member of a protocol as it is written, without ``self``."""
    (tree,) = ast.parse(inspect.getsource(getattr(ports, protocol))).body
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            yield ast.unparse(node)
        elif isinstance(node, ast.FunctionDef):
            del node.args.args[0]
            returned = ast.unparse(node.returns)
            is_property = any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)
            arguments = re.sub(r"'(\w+)'", r"\1", ast.unparse(node.args))  # names known to type checkers only
            yield f"{node.name}: {returned}" if is_property else f"{node.name}({arguments}) -> {returned}"


@pytest.mark.parametrize("protocol", ["ArchitectureAdapter", "WeightAttack", "QueryAttack", "FingerprintMethod"])
def test_the_guide_has_the_exact_signature_of_everything_a_plugin_implements(protocol):
    guide = GUIDE.read_text(encoding="utf-8").replace("\\|", "|")
    assert [member for member in members(protocol) if f"`{member}`" not in guide] == []


def test_the_catalog_calls_every_hook():
    assert set(HOOKS) == set(signatures())


def test_every_hook_is_documented_where_it_is_specified():
    assert all(inspect.getdoc(getattr(hookspecs, name)) for name in signatures())
