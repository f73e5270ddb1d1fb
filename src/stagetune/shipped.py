"""What ships, once it is installed or in a checkout: the settings, and the command that reads them."""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "conf"  # the wheel puts it there
COMMAND = "stagetune train" if _INSTALLED.is_dir() else "python train.py"  # as messages say how to run something
CONF = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def own_conf() -> Path | None:
    """The ./conf of whoever runs a command, which adds options to ours; None where there is none, or it is ours."""
    own = Path("conf").resolve()
    return own if own.is_dir() and own != CONF.resolve() else None
