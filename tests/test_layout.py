"""The import directions that the layout promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "stagetune"
PACKAGES = sorted(path.name for path in SRC.iterdir() if path.is_dir() and (path / "__init__.py").exists())

MAY_IMPORT = {
    "errors": set(),
    "typed": {"errors"},
    "schedule": {"errors", "typed"},
    "config": {"errors", "typed", "schedule"},
    "data": {"errors", "config"},
    "models": {"errors", "config"},
    "losses": {"errors", "config", "models"},
    "evaluation": {"errors", "config", "models"},
    "report": {"errors"},
    "cache": {"errors", "config", "data", "models", "schedule"},
    "tasks": {"errors", "config", "data", "models", "losses", "schedule", "evaluation", "cache"},
    "run": {"errors", "config", "data", "models", "losses", "schedule", "evaluation", "cache", "tasks", "report"},
    "sweep": {"errors", "config", "schedule", "report", "run"},
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Names below `stagetune.` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stagetune."):
            found.add(node.module.split(".")[1])
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
        if isinstance(node, ast.ImportFrom) and node.module == "stagetune":
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("stagetune.")}
    return found


def test_every_package_is_in_the_table() -> None:
    assert set(PACKAGES) | {"errors", "typed"} == set(MAY_IMPORT)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in sorted((SRC / package).rglob("*.py")):
        assert imports(path) - {package} <= MAY_IMPORT[package], path


@pytest.mark.parametrize(
    "module",
    ["stagetune.config.compose", "stagetune.config.validate", "stagetune.schedule.load", "stagetune.schedule.resolve",
     "stagetune.schedule.table",
     "stagetune.report.result", "stagetune.report.metrics", "hydra_plugins.stagetune_sweeper"],
)  # fmt: skip
def test_no_torch_is_imported_by(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
