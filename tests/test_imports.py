"""Imports: help, error messages and `import domain_ft` import nothing heavy, and packages follow the import rules."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import domain_ft

HEAVY = ("torch", "transformers", "numpy", "datasets", "pyarrow", "tokenizers", "accelerate", "matplotlib", "pandas")
PACKAGE = Path(domain_ft.__file__).parent


def imported_by(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has imported after running `code`."""
    report = f"import sys; print('imported:', *(set(sys.modules) & set({HEAVY!r})))"
    script = f"try:\n    {code}\nfinally:\n    {report}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("imported:")]
    return set(line.split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["adapt", "--help"],
        ["data", "--help"],
        ["adapt"],
        ["adapt", "--rnak", "8"],
        ["adpt"],
        ["adapt", "--config", "no-such.toml"],
        ["compare", "--help"],
    ],
)
def test_help_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(f"from domain_ft.cli import main; main({arguments!r})") == set()


@pytest.mark.parametrize(
    "code",
    [
        "import domain_ft; dir(domain_ft)",
        "from domain_ft import AdaptSettings; AdaptSettings(corpus='legal')",
        "from domain_ft import UserError, SettingsError",
    ],
)
def test_the_package_imports_nothing_heavy(code: str) -> None:
    assert imported_by(code) == set()


def test_data_list_imports_no_model_library() -> None:
    assert imported_by("from domain_ft.cli import main; main(['data', 'list'])") == set()


def test_compare_imports_no_model_library() -> None:
    found = imported_by("from domain_ft.cli import main; main(['compare', 'no-such-run', 'nor-this-one'])")
    assert found.isdisjoint({"torch", "transformers", "matplotlib"})


@pytest.mark.slow
def test_adapt_imports_only_what_it_needs_before_its_first_step() -> None:
    """Modules that only the report, hub data sets or other readers need are imported where they are used."""
    found = imported_by("import domain_ft.verbs.adapt.run, domain_ft.training.loop")
    assert {"torch", "transformers"} <= found
    assert found.isdisjoint({"matplotlib", "datasets", "pandas"})


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="adpt"):
        _ = domain_ft.adpt


def test_every_public_name_has_its_module() -> None:
    for name, module in domain_ft._MODULES.items():
        path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        defined |= {target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
        assert name in defined, f"{path} defines no {name}"
    assert set(domain_ft._MODULES) == set(domain_ft.__all__)


# The import rules between packages: what each must not import.
FORBIDDEN = {
    "corpus": ("domain_ft.models", "domain_ft.training", "domain_ft.objectives", "domain_ft.verbs"),
    "objectives": ("domain_ft.corpus.corpus", "domain_ft.training", "domain_ft.verbs", "domain_ft.report"),
    "models": ("domain_ft.training", "domain_ft.objectives", "domain_ft.verbs", "domain_ft.report"),
    "embedded": ("domain_ft.training", "domain_ft.objectives", "domain_ft.verbs", "domain_ft.report"),
    "training": ("domain_ft.verbs", "domain_ft.report"),
    "report": ("domain_ft.verbs", "domain_ft.training"),
}

RUN_OTHERS = ("verbs/data/estimate", "verbs/shared/read_first")
"""`data estimate` prepares runs of other verbs to measure their cost, and --read-first makes a run of `adapt`. No other
verb imports another's code."""


def imports_of(path: Path) -> set[str]:
    """The full names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_packages_follow_the_import_rules() -> None:
    breaches = []
    for path in PACKAGE.rglob("*.py"):
        package = path.relative_to(PACKAGE).parts[0]
        forbidden = FORBIDDEN.get(package, ()) if path.name != "__main__.py" else ()
        if path.name != "__main__.py":
            forbidden = (*forbidden, "domain_ft.cli")
        breaches += [
            f"{path.relative_to(PACKAGE)} imports {name}"
            for name in imports_of(path)
            if any(name == other or name.startswith(f"{other}.") for other in forbidden)
        ]
    assert breaches == []


TASK_PACKAGES = ("domain_ft.corpus.tasks", "domain_ft.corpus.tagging")


def test_no_verb_imports_another() -> None:
    """A verb imports its own code and what verbs share, and of other verbs only the settings."""
    verbs = {path.name for path in (PACKAGE / "verbs").iterdir() if path.is_dir()} - {"shared", "__pycache__"}
    breaches = []
    for path in (PACKAGE / "verbs").rglob("*.py"):
        if str(path.relative_to(PACKAGE)).startswith(RUN_OTHERS):
            continue
        own = path.relative_to(PACKAGE / "verbs").parts[0]
        foreign = [f"domain_ft.verbs.{verb}" for verb in sorted(verbs - {own})]
        breaches += [
            f"{path.relative_to(PACKAGE)} imports {name}"
            for name in sorted(imports_of(path))
            for other in foreign
            if name.startswith(f"{other}.") and not name.startswith(f"{other}.settings")
        ]
    assert breaches == []


def test_conversations_and_preferences_do_not_import_tasks() -> None:
    """What both need is in `corpus` itself. Preferences build on conversations, not the other way round."""
    for own, forbidden in (
        ("conversations", (*TASK_PACKAGES, "domain_ft.corpus.preferences")),
        ("preferences", TASK_PACKAGES),
    ):
        for path in (PACKAGE / "corpus" / own).rglob("*.py"):
            assert not any(name.startswith(forbidden) for name in imports_of(path)), path
    for name in (
        *("near_copies", "splitting", "holding_out", "hub_splits", "inputs", "words"),
        *("annotation_tools", "examples", "knowledge_bases"),
    ):
        path = PACKAGE / "corpus" / f"{name}.py"
        assert not any(one.startswith((*TASK_PACKAGES, "domain_ft.corpus.conv")) for one in imports_of(path))


def test_tagging_and_tasks_do_not_import_each_other() -> None:
    """`tag` and `classify` share `corpus.annotation_tools`, `corpus.examples` and `corpus.knowledge_bases`."""
    for own, other in zip(("tagging", "tasks"), TASK_PACKAGES, strict=True):
        for path in (PACKAGE / "corpus" / own).rglob("*.py"):
            assert not any(name.startswith(other) for name in imports_of(path)), path


def test_kernels_do_not_import_domain_ft() -> None:
    spec = importlib.util.find_spec("domain_ft_kernels")
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parent.rglob("*.py"):
        assert not any(name.split(".")[0] == "domain_ft" for name in imports_of(path)), path
