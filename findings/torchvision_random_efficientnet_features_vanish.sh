#!/usr/bin/env bash
# torchvision 0.29.2 and timm 1.0.31 with torch 2.15.0, CPU.
# A network with random weights in eval mode, under a new head, is a usual baseline or a quick trial. With a ResNet the features
# are of a usual size. With torchvision's EfficientNet-B0 nothing arrives: features have a norm of about 1e-12, since its
# depthwise convolutions are initialised by their number of outgoing channels, squeeze-and-excitation halves what comes, and
# BatchNorm in eval mode does not bring it back; a linear head on them learns nothing and an embedding is rounding. MobileNetV3
# loses most of it (about 1e-7). timm initialises the same architecture so that a norm of about 1e-4 is left.
# Seen on 2026-11-27, mean norm of the pooled features of 16 random images: resnet18 33.7, efficientnet_b0 7.2e-13,
# mobilenet_v3_small 2.3e-07, timm's efficientnet_b0 2.1e-04.
# The script fails if that changes by two orders of magnitude.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 timm==1.0.31
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import timm
import torch
from torch import nn
from torchvision.models import get_model

torch.manual_seed(0)
images = torch.rand(16, 3, 64, 64) * 4 - 2


def norm(network: nn.Module) -> float:
    with torch.no_grad():
        return network.eval()(images).norm(dim=1).mean().item()


resnet, efficientnet, mobilenet = (get_model(name) for name in ("resnet18", "efficientnet_b0", "mobilenet_v3_small"))
resnet.fc, efficientnet.classifier, mobilenet.classifier = nn.Identity(), nn.Identity(), nn.Identity()
norms = {
    "resnet18": norm(resnet),
    "efficientnet_b0": norm(efficientnet),
    "mobilenet_v3_small": norm(mobilenet),
    "timm efficientnet_b0": norm(timm.create_model("efficientnet_b0", num_classes=0)),
}
print({name: f"{value:.1e}" for name, value in norms.items()})
for name, seen in zip(norms, (33.7, 7.2e-13, 2.3e-7, 2.1e-4), strict=True):
    assert seen / 100 < norms[name] < seen * 100, name
PYTHON
