"""Who may import whom, read from the source."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fpvec_audit"
LAYER = {"tensors", "training", "backends", "registry", "catalog", "evidence", "storage"}
ALLOWED_AMONG = {("training", "tensors"), ("storage", "tensors")}
HEAVY = {
    "torch",
    "transformers",
    "vllm",
    "numpy",
    "scipy",
    "sqlalchemy",
    "cryptography",
    "httpx",
    "matplotlib",
    "jinja2",
    "fsspec",
    "ray",
}


IN_FLEETS = {"fleet/worker.py", "fleet/cluster.py"}
"""A bug that one item meets does not end the others; and Ray raises bare exceptions when it cannot start."""


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path):
    """Return (imported module, whether the import stands at the top of the file) of every import."""
    tree = tree_of(path)
    top = set(map(id, tree.body))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module, id(node) in top))
            found += [(f"{node.module}.{alias.name}", id(node) in top) for alias in node.names]
    return tuple(found)


def modules(part):
    place = PACKAGE / part
    return sorted(place.rglob("*.py")) if place.is_dir() else [PACKAGE / f"{part}.py"]


def own(path):
    """Yield first components of fpvec_audit modules that a file imports."""
    for name, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "fpvec_audit" and len(parts) > 1:
            yield parts[1]


@pytest.mark.parametrize("path", modules("domain"), ids=lambda path: path.stem)
def test_domain_imports_the_standard_library_domain_errors_and_progress_only(path):
    for name, _ in imports(path):
        if name.split(".")[0] == "fpvec_audit":
            assert name.split(".")[1:2] in (["domain"], ["errors"], ["progress"]), f"{path.name} imports {name}"
        else:
            assert name.split(".")[0] in sys.stdlib_module_names, f"{path.name} imports {name}"


@pytest.mark.parametrize("part", sorted(LAYER))
def test_middle_layer_imports_neither_its_neighbours_nor_anything_above(part):
    for path in modules(part):
        for other in own(path):
            assert other not in {"services", "fleet", "cli", "reports", "demo", "reproduction"}, (
                f"{path} imports {other}"
            )
            if other in LAYER - {part}:
                assert (part, other) in ALLOWED_AMONG, f"{path} imports {other}"


def test_evidence_needs_the_standard_library_the_domain_and_cryptography_only():
    for path in modules("evidence"):
        assert set(own(path)) <= {"domain", "errors", "evidence"}, path
        others = {name.split(".")[0] for name, _ in imports(path)} - {"fpvec_audit"}
        assert others <= sys.stdlib_module_names | {"cryptography"}, path


def test_services_import_neither_cli_nor_reports():
    for path in modules("services"):
        assert not {"fleet", "cli", "reports", "demo", "reproduction"} & set(own(path)), path


def test_fleet_stands_between_cli_and_services_and_alone_imports_ray_when_it_is_needed():
    for path in modules("fleet"):
        assert not {"cli", "reports", "demo", "reproduction"} & set(own(path)), path
    for path in PACKAGE.rglob("*.py"):
        found = [top for name, top in imports(path) if name.split(".")[0] == "ray"]
        assert not any(found), f"{path} imports ray at its top"
        assert not found or path.relative_to(PACKAGE).parts[0] == "fleet", path


def test_reports_build_on_the_domain_alone_and_only_cli_imports_them():
    for path in modules("reports"):
        assert set(own(path)) <= {"reports", "domain", "errors", "progress", "__version__"}, path
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in {"cli", "reports"}:
            assert "reports" not in set(own(path)), path


def test_rich_lives_in_reports_and_cli_alone_and_not_where_their_words_are():
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        drawn = relative.parts[0] == "reports" and not relative.stem.endswith("_text")
        if relative.parts[0] != "cli" and not drawn:
            assert not any(name.split(".")[0] in {"rich", "typer"} for name, _ in imports(path)), path


def test_only_settings_read_the_environment():
    readers = {"environ", "getenv"}
    for path in PACKAGE.rglob("*.py"):
        if path.name == "settings.py":
            continue
        read = [
            node.lineno
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.Attribute) and node.attr in readers and ast.unparse(node.value) == "os"
        ]
        # a child process needs an environment of its own; the backends make one out of the process's
        assert not read or path.relative_to(PACKAGE).parts[0] == "backends", f"{path}: lines {read}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "plugins").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT / "plugins"))
)
def test_plugins_import_the_api_and_the_toolkit_inside_functions(path):
    for name, top in imports(path):
        parts = name.split(".")
        if parts[0] == "fpvec_audit":
            assert parts[:2] == ["fpvec_audit", "api"] or (parts[1] == "toolkit" and not top), f"{path} imports {name}"
        elif top:
            assert parts[0] == "fpvec_plugins" or parts[0] in sys.stdlib_module_names, f"{path} imports {name}"


def test_only_the_loading_of_plugins_their_use_workers_and_the_top_of_the_command_line_catch_everything():
    for path in PACKAGE.rglob("*.py"):
        relative = str(path.relative_to(PACKAGE))
        if relative in {"catalog.py", "plugin_code.py", "plugin_points.py", "cli/main.py", *IN_FLEETS}:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                swallows = not any(isinstance(child, ast.Raise) and child.exc is None for child in ast.walk(node))
                assert not (caught in {"everything", "Exception", "BaseException"} and swallows), (
                    f"{relative}:{node.lineno} catches {caught}"
                )


@pytest.mark.parametrize(
    "code",
    [
        "import fpvec_audit.cli.main",
        "from fpvec_audit.cli.main import run; assert run(['--help']) == 0",
        "import fpvec_audit.api, fpvec_audit.catalog, fpvec_audit.testing; fpvec_audit.catalog.load_catalog()",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    check = f"{code}\nimport sys\nheavy = {HEAVY!r} & set(sys.modules)\nsys.exit(str(heavy) if heavy else 0)\n"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
