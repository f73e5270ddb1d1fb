"""Staged fine-tuning of pretrained backbones, right and fast.

The names below are the public face; each is imported when it is first used, so that `import stagetune` is instant.

>>> import stagetune
>>> config = stagetune.compose(["schedule=head_only", "model=resnet18"])
>>> [stage.name for stage in stagetune.make_plan(config).stages]
['head']
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_FROM = {
    "Stage": "stagetune.schedule.spec",
    "Until": "stagetune.schedule.spec",
    "Schedule": "stagetune.schedule.spec",
    "load_schedule": "stagetune.schedule.load",
    "StagedUnfreezing": "stagetune.schedule.callback",
    "make_plan": "stagetune.run.planning",
    "compose": "stagetune.config.compose",
    "run_experiment": "stagetune.run.experiment",
    "load": "stagetune.inference.load",
    "Gallery": "stagetune.inference.gallery",
}

if TYPE_CHECKING:
    from stagetune.config.compose import compose
    from stagetune.inference.gallery import Gallery
    from stagetune.inference.load import load
    from stagetune.run.experiment import run_experiment
    from stagetune.run.planning import make_plan
    from stagetune.schedule.callback import StagedUnfreezing
    from stagetune.schedule.load import load_schedule
    from stagetune.schedule.spec import Schedule, Stage, Until

__all__ = [
    "Gallery",
    "Schedule",
    "Stage",
    "StagedUnfreezing",
    "Until",
    "__version__",
    "compose",
    "load",
    "load_schedule",
    "make_plan",
    "run_experiment",
]


if not TYPE_CHECKING:  # a checker knows the names from above, and any other is a mistake

    def __getattr__(name: str) -> Any:
        if name not in _FROM:
            raise AttributeError(f"module 'stagetune' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_FROM[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
