"""The import directions that the layout promises."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "stagetune"
PACKAGES = sorted(path.name for path in SRC.iterdir() if path.is_dir() and (path / "__init__.py").exists())

BASIC = {  # what everything may use
    "errors",
    "artifacts",
    "shipped",
    "seams",
    "targets",
    "trust",
    "visible",
    "interrupts",
    "locks",
    "streams",
}
MAY_IMPORT = {
    "visible": set(),
    "errors": {"visible"},
    "artifacts": {"errors", "typed"},
    "shipped": set(),
    "interrupts": set(),
    "locks": {"errors"},
    "streams": set(),
    "seams": set(),
    "targets": {"errors"},
    "trust": {"errors", "shipped", "targets"},
    "typed": {"errors"},
    "schedule": {*BASIC, "typed"},
    "config": {*BASIC, "typed", "schedule"},
    "data": {*BASIC, "typed", "config"},
    "models": {*BASIC, "typed", "schedule", "config"},
    "losses": {*BASIC, "typed", "config", "models"},
    "evaluation": {*BASIC, "config", "models"},
    "report": {"errors", "artifacts", "shipped", "trust", "typed", "visible", "config", "evaluation"},
    "cache": {*BASIC, "config", "data", "models", "schedule"},
    "tasks": {*BASIC, "typed", "config", "data", "models", "losses", "schedule", "evaluation", "cache"},
    "run": {
        *BASIC,
        "typed",
        "config",
        "data",
        "models",
        "losses",
        "schedule",
        "evaluation",
        "cache",
        "tasks",
        "report",
    },
    "inference": {*BASIC, "typed", "config", "data", "models", "evaluation", "tasks", "run"},
    "inspection": {*BASIC, "config", "data", "models", "evaluation", "cache", "run"},
    "sweep": {*BASIC, "config", "schedule", "report", "run", "inference"},
}
INTERNAL = (  # what seams.py alone may name: of Lightning's trainer and loops, of Hydra and of Python
    "fit_loop", "epoch_loop", "_results", "_ddp_kwargs", "configure_ddp", "lr_scheduler_configs =", "val_check_batch",
    "_val_check_time_interval", "trainer.callbacks", "sanity_checking =", "combined_loader", "hydra._internal",
    "_return_value", "GlobalHydra", "ConfigStore", "_on_queue_feeder_error",
)  # fmt: skip


def imports(path: Path) -> set[str]:
    """Names below `stagetune.` that a module imports, anywhere in it; not those of its annotations alone."""
    found = set()
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stagetune."):
            found.add(node.module.split(".")[1])
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} imports relatively"
        if isinstance(node, ast.ImportFrom) and node.module == "stagetune":
            found |= {alias.name for alias in node.names} - {"__version__"}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("stagetune.")}
    return found


def test_every_package_is_in_the_table() -> None:
    assert set(PACKAGES) | BASIC | {"typed", "targets"} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", [*sorted(BASIC), "typed", "targets"])
def test_what_everything_uses_uses_little(module: str) -> None:
    assert imports(SRC / f"{module}.py") <= MAY_IMPORT[module]


def test_internals_of_lightning_and_hydra_are_named_in_one_module() -> None:
    found = {
        f"{path.name}: {name}"
        for path in [*SRC.rglob("*.py"), *SRC.parent.joinpath("hydra_plugins").glob("*.py")]
        for name in INTERNAL
        if path.name != "seams.py" and name in path.read_text()
    }
    assert not found
    assert all(name in (SRC / "seams.py").read_text() for name in INTERNAL if name != "hydra._internal")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for path in sorted((SRC / package).rglob("*.py")):
        assert imports(path) - {package} <= MAY_IMPORT[package], path


@pytest.mark.parametrize(
    "module",
    ["stagetune.targets", "stagetune.trust", "stagetune.config.compose",
     "stagetune.config.validate", "stagetune.schedule.load",
     "stagetune.schedule.resolve",
     "stagetune.schedule.table",
     "stagetune.report.result", "stagetune.report.metrics", "hydra_plugins.stagetune_sweeper",
     "stagetune.inference.gallery",
     ", ".join(f"stagetune.models.backbones.{path.stem}" for path in (SRC / "models/backbones").glob("[a-z]*.py"))],
)  # fmt: skip
def test_no_torch_is_imported_by(module: str) -> None:
    code = f"import sys, {module}; assert not {{'torch', 'lightning'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
