"""What ships, once it is installed or in a checkout: the settings, and the command that reads them."""

import os
import shutil
import sys
from pathlib import Path

_INSTALLED = Path(__file__).parent / "conf"  # the wheel puts it there
COMMAND = "stagetune train" if _INSTALLED.is_dir() else "python train.py"  # as messages say how to run something
CONF = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def own_conf() -> Path | None:
    """The ./conf of whoever runs a command, which adds options to ours; None where there is none, or it is ours."""
    own = Path("conf").resolve()
    return own if own.is_dir() and own != CONF.resolve() else None


def stagetune_command() -> str:
    """How `stagetune` is called from here: by its path where the shell would find none, or another."""
    beside = Path(sys.executable).with_name("stagetune")
    found = shutil.which("stagetune")
    if found and beside.exists() and Path(found).samefile(beside):
        return "stagetune"
    if beside.exists():
        return os.path.relpath(beside) if beside.is_relative_to(Path.cwd()) else str(beside)
    return "PYTHONPATH=src python -m stagetune"  # a checkout that is not installed
