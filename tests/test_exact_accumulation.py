"""One loss over a batch that is encoded in parts: the gradients of the whole, the memory of a part."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD

import networks
from commands import start_cold
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch
from stagetune.errors import ConfigError
from stagetune.losses import contrastive, triplet
from stagetune.models.own import own_backbone
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.network import network_of
from stagetune.tasks.siamese import SiameseTask

pytestmark = pytest.mark.usefixtures("_no_pictures")

CONTRASTIVE = contrastive.Settings().build(10, 8)


def task(loss: nn.Module, chunks: int, width: int = 8) -> SiameseTask:
    torch.manual_seed(0)
    backbone = own_backbone(networks.Net(width), ["stem", "layer2", "layer3", "layer4"], 32)
    made = SiameseTask(backbone, nn.Linear(width, 4), loss, make_optimizer=partial(SGD, lr=0.1), chunks=chunks)
    Freezing(network_of(made)).open_only({name for name, _ in made.named_parameters()}, batch_norm="frozen")
    return made


def batch(count: int = 36) -> Batch:
    torch.manual_seed(1)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return Batch(torch.arange(count), images, 0, torch.arange(count) % 6)


@pytest.mark.parametrize("loss", [CONTRASTIVE, triplet.Settings().build(10, 8)], ids=["pairs", "triplets"])
@pytest.mark.parametrize("chunks", [4, 5])
def test_its_gradients_are_those_of_one_large_batch(loss: nn.Module, chunks: int) -> None:
    """Ordinary accumulation has other ones: it never compares images of two parts."""
    gradients = []
    for parts in (1, chunks):
        made = task(loss, parts)
        made.training_step(batch(), 0).backward()
        gradients.append({name: p.grad for name, p in made.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=1e-5, atol=1e-6, msg=name)
    ordinary = task(loss, 1)
    for part in range(4):
        whole = batch()
        piece = slice(9 * part, 9 * part + 9)
        cut = Batch(whole.index[piece], whole.inputs[piece], 0, whole.target[piece])
        (ordinary.training_step(cut, part) / 4).backward()
    others = {name: p.grad for name, p in ordinary.named_parameters() if p.grad is not None}
    assert any(not torch.allclose(others[name], expected, rtol=1e-2) for name, expected in gradients[0].items())


def test_it_keeps_no_more_than_the_inputs_of_the_parts() -> None:
    """Bytes that autograd holds between forward and backward; a part's own are made when its turn comes."""

    def kept(chunks: int) -> int:
        made, seen = task(CONTRASTIVE, chunks, width=32), {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            made.training_step(batch(), 0)
        return sum(seen.values())

    assert kept(4) < kept(1) / 4


STEPS = """
import os, sys, torch
from stagetune.run.recorder import peak_memory_mb, reset_peak_memory
from test_exact_accumulation import CONTRASTIVE, batch, task
for words in sys.argv[1:]:  # each in a process of its own, that has imported all and computed nothing
    if (child := os.fork()) == 0:
        count, chunks = map(int, words.split("/"))
        cpu, images = torch.device("cpu"), batch(count)
        task(CONTRASTIVE, 1, width=64).training_step(batch(8), 0).backward()  # what torch itself needs
        reset_peak_memory(cpu)
        before = peak_memory_mb(cpu)
        task(CONTRASTIVE, chunks, width=64).training_step(images, 0).backward()
        print(peak_memory_mb(cpu) - before, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_its_measured_peak_is_near_that_of_a_part() -> None:
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed leaves the process at once
    steps = start_cold("-c", STEPS, "100/1", "400/1", "400/4", cwd=Path(__file__).parent, env=returned)
    printed, err = steps.communicate()
    assert (steps.returncode, err) == (0, "")
    part, whole, exact = map(float, printed.split())
    assert whole > 3 * part
    assert exact < 1.25 * part


@pytest.mark.slow
def test_a_run_has_large_batches_and_says_so(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("+experiment=siamese_staged", "accumulation=exact_x4", "data.batch_size=10", stages=2)
    config.schedule.stages[1].batch_norm = "frozen"
    run_experiment(config, tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert (result.batch_size, result.effective_batch_size) == (40, 40)
    assert [stage["steps"] for stage in result.stages] == [4, 4]


@pytest.mark.parametrize("more", [(), ("task.embedding=null",)])
def test_batch_norm_that_trains_is_refused(
    more: tuple[str, ...], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = replace(tiny("+experiment=siamese_staged", *more), accumulation=4, exact_accumulation=True)
    stages = "layer4, all"
    remedy = "freeze it (++schedule.stages.1.batch_norm=frozen ++schedule.stages.2.batch_norm=frozen)"
    if more:
        stages, remedy = f"head, {stages}", f"{remedy} and give the head none (task.embedding=128)"
    with pytest.raises(ConfigError) as caught:
        run_experiment(config, tmp_path / "run")
    assert caught.value.problems == [
        f"exact_accumulation: BatchNorm trains in stage {stages} and would normalise each of 4 parts by itself; "
        f"{remedy}, or use accumulation=x4"
    ]
