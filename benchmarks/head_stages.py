"""What the head stage of a schedule makes of frozen features, beside their probe: the table of docs/schedules.md.

`python -m benchmarks.head_stages` measures every shipped schedule whose first stage trains the head alone;
`python -m benchmarks.head_stages schedule=staged schedule.stages.0.lr=1e-2 model.head_init=probe` one, as it is said.
The images are crops of photographs that foolbox ships, the features those of EfficientNet-Lite0 (both in the
extras `dev` and `offline`), without augmentation. Test accuracies are means over splits of the data, of the epoch
with the lowest val/loss: the last or nearly so.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import foolbox
import numpy as np
from PIL import Image

from stagetune import run_experiment
from stagetune.config.compose import CONF, compose
from stagetune.config.schema import Config
from stagetune.errors import StagetuneError
from stagetune.report.result import RunResult
from stagetune.schedule.spec import Stage

SIDE, SPLITS = 64, 8  # of a crop, in pixels; photographs have 512
ANIMALS, THINGS = (0, 14, 15, 16, 17, 18, 19), (3, 4, 5, 8, 9, 12, 13)  # photographs by number
SETS = {"238, 2": (17, ("animal", "thing")), "560, 14": (40, None)}  # crops of each photograph, classes


def write_crops(folder: Path, each: int, kinds: tuple[str, str] | None) -> Path:
    """So many crops of each photograph, none overlapping; classes are what it shows, or which photograph it is."""
    rng, photographs = np.random.default_rng(0), Path(foolbox.__file__).parent / "data"
    for number in (*ANIMALS, *THINGS):
        (path,) = photographs.glob(f"imagenet_{number:02}_*.jpg")
        image = Image.open(path).convert("RGB")
        across = image.width // SIDE
        name = kinds[number in THINGS] if kinds else path.stem
        (folder / name).mkdir(parents=True, exist_ok=True)
        for place in rng.permutation(across * (image.height // SIDE))[:each].tolist():
            x, y = SIDE * (place % across), SIDE * (place // across)
            image.crop((x, y, x + SIDE, y + SIDE)).save(folder / name / f"{path.stem}_{place}.png")
    return folder


def configured(words: Sequence[str], images: Path, split: int) -> Config:
    """The run of a schedule's first stage."""
    data = ["data=image_folder", f"data.root={images}", f"data.seed={split}", "data.image_size=128"]
    cheap = ["data.augment=none", "data.num_workers=0", "precision=fp32"]
    model = ["model=efficientnet_lite0", "model.weights=imagenet", f"seed={split}", "task.monitor=val/loss"]
    config = compose([*data, *cheap, *model, *words])
    del config.schedule.stages[1:]
    config.schedule.leave_frozen = True
    return config


def measured(words: Sequence[str], images: Path, into: Path) -> Iterator[RunResult]:
    """The results of a run for each split."""
    for split in range(SPLITS):
        with contextlib.redirect_stdout(io.StringIO()):
            yield run_experiment(configured(words, images, split), into / "-".join([*words, str(split)]))


def shipped() -> list[str]:
    """The schedules whose first stage opens the head and nothing else; of those that share it the first."""
    names = sorted(path.stem for path in (CONF / "schedule").glob("*.yaml"))
    firsts = {name: compose([f"schedule={name}"]).schedule.stages[0] for name in names}
    found: dict[str, Stage] = {}
    for name, first in firsts.items():
        stage = replace(first, name="head")
        if stage.open == ["head"] and stage not in found.values():
            found[name] = stage
    return [f"schedule={name}" for name in found]


def main(words: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for of, (each, kinds) in SETS.items():
            images, into = write_crops(Path(folder) / str(each), each, kinds), Path(folder) / "runs" / str(each)
            probes = [run.probe["test/accuracy"] for run in measured(["schedule=head_only"], images, into / "probe")]
            print(f"\n{of} ({SPLITS} splits): the probe has {mean(probes):.3f}", flush=True)
            for chosen in [words] if words else [[one] for one in shipped()]:
                gains = [
                    run.test["test/accuracy"] - probe
                    for run, probe in zip(measured(chosen, images, into), probes, strict=True)
                ]
                print(f"{' '.join(chosen)}: {mean(probes) + mean(gains):.3f}, {mean(gains):+.3f}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except StagetuneError as error:
        sys.exit(str(error))
