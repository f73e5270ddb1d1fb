"""The benchmark: its figures are in the documentation as they were measured, and its jobs run."""

import json
from pathlib import Path

import pytest
import torch
from benchmarks import inference, limits, scaling, zeros
from benchmarks.job import write_images
from benchmarks.table import ratio, ratio_table, tables

from commands import start
from stagetune.models.backbones import resnet

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = [path for path in sorted(RESULTS.glob("*.json")) if not path.stem.endswith(("-scaling", "-inference"))]


def test_the_documentation_shows_the_figures_that_were_measured() -> None:
    assert MEASURED
    speed, readme = (ROOT / "docs" / "speed.md").read_text(), (ROOT / "README.md").read_text()
    for path in MEASURED:
        content = json.loads(path.read_text())
        assert tables(content) in speed, f"python -m benchmarks.table {path}"
        assert "\n".join(ratio_table(content)) in readme, f"python -m benchmarks.table {path}"
        grows = json.loads(path.with_name(f"{path.stem}-scaling.json").read_text())
        assert scaling.table(grows) in speed


def test_the_documentation_shows_the_runtimes_that_were_measured() -> None:
    measured = sorted(RESULTS.glob("*-inference.json"))
    assert measured
    using = (ROOT / "docs" / "using.md").read_text()
    assert all(inference.table(json.loads(path.read_text())) in using for path in measured)


def test_the_smallest_weights_of_all_convolutions_are_set_to_0_and_the_file_stays_as_large() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3), torch.nn.Linear(5, 2))
    before = [layer.weight.detach().clone() for layer in network]
    largest = torch.cat([weight.abs().flatten() for weight in before[:2]]).sort(descending=True).values[28]  # of 288
    file, zipped = zeros.sizes(network)
    zeros.zero(network, 0.9)
    for layer, weight in zip(network[:2], before, strict=False):
        assert torch.equal(layer.weight, weight.where(weight.abs() >= largest, 0))
    assert torch.equal(network[2].weight, before[2])
    assert zeros.sizes(network)[0] == file
    assert zeros.sizes(network)[1] < zipped


def test_a_ratio_is_a_median_with_its_lowest_and_highest_round() -> None:
    assert ratio([2.0, 1.5, 4.0]) == "**2.00** (1.50 to 4.00)"
    assert ratio([30.0, 41.2, 25.6]) == "**30** (26 to 41)"


@pytest.mark.slow
def test_operations_are_counted_as_he_et_al_count_them() -> None:
    """4.1 GFLOPs (multiply-adds) forward at 224 px; backward costs twice that, but for the gradient of the images."""
    assert limits.step_flops(224, "all") == pytest.approx(3 * 2 * 4.1e9, rel=0.03)
    assert limits.step_flops(224, "layer4") < limits.step_flops(224, "all") / 5


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images and weights of a job, which it only reads."""
    folder = tmp_path_factory.mktemp("job")
    write_images(folder / "images", 32, 40, 20)
    state = {
        f"backbone.{name}": value for name, value in resnet.Settings(arch="resnet50").build(64).state_dict().items()
    }
    torch.save({"state_dict": state}, folder / "weights.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["stagetune", "Lightning", "Lightning, tuned"])
def test_each_peer_does_the_same_job(variant: str, job: Path, tmp_path: Path) -> None:
    process = start(
        "-m", "benchmarks.job", variant, "--root", str(job / "images"), "--size", "32", "--batch", "20",
        "--weights", str(job / "weights.pt"), "--out", str(tmp_path / "out.json"), cwd=ROOT,
    )  # fmt: skip
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    figures = json.loads((tmp_path / "out.json").read_text())
    assert (
        list(figures["seconds"])
        == list(figures["kept_mib"])
        == list(figures["peak_mib"])
        == ["head", "layer4", "all"]
    )
    assert figures["total"] >= sum(figures["seconds"].values())
    assert {"val/accuracy", "val/loss"} <= figures["val"].keys()
    assert (figures["kept_mib"]["head"] > 1) == (variant == "Lightning")
