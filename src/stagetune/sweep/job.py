"""One job of a sweep, in whichever process its launcher gives it."""

import gc
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path

from stagetune.artifacts import RunDir
from stagetune.config.schema import Config
from stagetune.errors import Interrupted, Pruned, StagetuneError, number_of, show
from stagetune.report.collect import read_sweep
from stagetune.report.result import read_result
from stagetune.sweep.gpus import claim_gpu
from stagetune.sweep.jobs import Job, make_ready, result_of, state_of
from stagetune.trust import targets_in
from stagetune.visible import visible_name


def run_job(config: Config, run_dir: Path, *, screen: Path | None = None) -> float | None:
    """Begin a job, go on with it or repeat it; its score, or None if it failed, which is shown and recorded.

    The others go on, unless a person has interrupted it or `sweep.stop_on_failure` says otherwise. Jobs at the same
    time say what they do in a file each, `screen`.
    """
    state = state_of(run_dir, config)
    if state == "done":
        return read_result(run_dir).score
    if config.sweep.stop_on_failure and (failed := _failed_beside(run_dir)):
        show(StagetuneError(f"{run_dir} is not begun, since {failed} failed (sweep.stop_on_failure)"))
        return None
    if screen:
        claim_gpu(run_dir.parents[1])
    from stagetune.run import run_experiment  # imports torch; only now, so that a sweep that is done says so at once

    try:
        if screen and screen.is_symlink():
            screen.unlink()  # it would be written elsewhere
        with redirect_stdout(screen.open("a", buffering=1)) if screen else nullcontext():
            trained = state == "export"
            if state == "repeat":  # also where the launcher begins a job once more by itself
                make_ready(Job((), config, run_dir))
                RunDir(run_dir).remove_written()
            result = read_result(run_dir) if trained else run_experiment(config, run_dir, resume=state == "go on")
            if result.pruning:
                _export_int8(run_dir, config)
            return result.score
    except (Interrupted, KeyboardInterrupt) as stop:
        show(Interrupted(f"interrupted; the same command again goes on with {run_dir} and the jobs after it"))
        sys.exit(128 + number_of(stop))
    except Pruned:
        return None
    except StagetuneError as error:
        show(error)
    except Exception as error:
        show(StagetuneError(f"{run_dir}: {type(error).__name__}: {error}").with_traceback(error.__traceback__))
    finally:
        gc.collect()  # a model of a job is full of circles, and the next one wants its memory
        sys.modules["torch"].cuda.empty_cache()
    return None


def _export_int8(run_dir: Path, config: Config) -> None:
    """Export what was pruned, so that the report can draw it in 8-bit integers; where that cannot be, say why."""
    from stagetune.inference.export.export import default_place, export

    if default_place(run_dir, "onnx", int8=True).exists():
        return
    typed = targets_in(asdict(config))  # the checkpoint may be another's that was put in its place
    try:
        print(f"{'int8':<9} {export(run_dir, to='onnx', int8=True, trust=typed).file}")
    except StagetuneError as error:
        print(f"{'int8':<9} not exported: {visible_name(str(error))}")
    except Exception as error:  # of a library; the run is completed all the same
        print(f"{'int8':<9} not exported: {type(error).__name__}: {visible_name(str(error))}")


def _failed_beside(run_dir: Path) -> str | None:
    """A job of the same sweep that has failed."""
    folder = run_dir.parents[1]
    results = ((name, result_of(folder / name)) for name in read_sweep(folder))
    return next((name for name, result in results if result and result.status == "failed"), None)
