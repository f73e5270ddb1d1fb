"""One experiment from configuration to result."""

from stagetune.run.experiment import run_experiment

__all__ = ["run_experiment"]
