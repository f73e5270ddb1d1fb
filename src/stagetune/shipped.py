"""Where the settings that ship lie: in the package once it is installed, else at the top of the checkout."""

from pathlib import Path

_INSTALLED = Path(__file__).parent / "conf"  # the wheel puts it there
CONF = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def own_conf() -> Path | None:
    """The ./conf of whoever runs a command, which adds options to ours; None where there is none, or it is ours."""
    own = Path("conf").resolve()
    return own if own.is_dir() and own != CONF.resolve() else None
