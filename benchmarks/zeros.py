"""What zeros among single weights gain, beside fewer channels: the table of docs/compress.md from one command.

    python -m benchmarks.zeros

Of each network the smallest weights of all convolutions are set to 0, or channels are left out, and all of these are
timed in rounds that alternate, in fp32 on one thread of the CPU; a time is the median of its ratios to that of the
dense network in the same round. Files are what torch.save writes of the state dict. Weights are random: what is
multiplied, and stored, does not depend on them. It takes some minutes.
"""

import io
import platform
import statistics
import time
import zipfile
from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from stagetune.config.compose import compose
from stagetune.models.backbone import Backbone
from stagetune.models.prune import prune

NETWORKS = (("resnet18", "ResNet18", 64, 8), ("resnet50", "ResNet50", 224, 1))  # arch, name, pixels, images at once
ZEROS = (0.5, 0.9)
RATIOS = (0.3, 0.5)  # of channels
ROUNDS = 25


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, one thread, {ROUNDS} rounds\n")
    print("| network | weights at 0 | time beside the dense one | file | zipped |")
    print("| --- | --- | --- | --- | --- |")
    for arch, name, size, batch in NETWORKS:
        named = variants(built(arch, size), size)
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
        times = ratios(named, images)
        title = f"{name}, {size} px, batches of {batch}"
        for (what, network), ratio in zip(named.items(), times, strict=True):
            file, zipped = sizes(network)
            print(f"| {title} | {what} | {ratio:.2f} | {file / 1e6:.1f} MB | {zipped / 1e6:.1f} MB |", flush=True)
            title = ""


def built(arch: str, size: int) -> Backbone:
    torch.manual_seed(0)
    return compose([f"model={arch}", f"data.image_size={size}"]).model.build(size).eval()


def variants(dense: Backbone, size: int) -> dict[str, Backbone]:
    """The network as it is, with zeros, and with fewer channels."""
    found = {"none": dense}
    for share in ZEROS:
        found[f"{share:.0%}"] = network = deepcopy(dense)
        zero(network, share)
    for ratio in RATIOS:
        found[f"channels, ratio {ratio}"] = network = deepcopy(dense)
        prune(network, ratio, size)
    return found


def zero(network: nn.Module, share: float) -> None:
    """Set this share of the weights of all convolutions to 0, the smallest of all."""
    weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    magnitudes = torch.cat([weight.detach().abs().flatten() for weight in weights])
    threshold = magnitudes.kthvalue(int(share * len(magnitudes))).values
    with torch.no_grad():
        for weight in weights:
            weight[weight.abs() <= threshold] = 0


@torch.no_grad()
def ratios(networks: Mapping[str, nn.Module], images: Tensor) -> Iterator[float]:
    """Of each network the time beside that of the first one: the median over rounds."""
    for network in networks.values():  # the first call is slower
        network(images)
    rounds = []
    for _ in range(ROUNDS):
        seconds = []
        for network in networks.values():
            start = time.perf_counter()
            network(images)
            seconds.append(time.perf_counter() - start)
        rounds.append([second / seconds[0] for second in seconds])
    return map(statistics.median, zip(*rounds, strict=True))


def sizes(network: nn.Module) -> tuple[int, int]:
    """Bytes of its file, and of that file zipped."""
    file, archive = io.BytesIO(), io.BytesIO()
    torch.save(network.state_dict(), file)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("weights.pt", file.getvalue())
    return len(file.getvalue()), len(archive.getvalue())


if __name__ == "__main__":
    main()
