#!/usr/bin/env bash
# torch 2.15.0, CPU.
# A .pt2 file of torch.export.save holds more than the program and its weights. The example that the program was traced with is
# in it, value for value: whoever exports with a real image gives that image away with the model; `example_inputs` of the loaded
# program returns it. And a weight that is a view into a larger tensor (rows left of a larger layer, one part of a flat buffer)
# takes all of the larger tensor with it, also what was cut away, although weights lie in the archive as raw bytes and not as
# pickles.
# Seen on 2026-11-27: the loaded program returns the example; 12 weights that are a view into a million take 4 000 000 bytes,
# after .clone() they take 48.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import io
import zipfile

import torch

example = torch.arange(8.0).reshape(2, 4)


def archive(weight):
    layer = torch.nn.Linear(4, 3, bias=False).eval()
    layer.weight = torch.nn.Parameter(weight)
    file = io.BytesIO()
    torch.export.save(torch.export.export(layer, (example,)), file)
    [size] = [entry.file_size for entry in zipfile.ZipFile(file).infolist() if entry.filename.endswith("weight_0")]
    file.seek(0)
    return size, torch.export.load(file).example_inputs[0][0]


large = torch.rand(1000, 1000)
(view, held), (copy, _) = archive(large[:3, :4]), archive(large[:3, :4].clone())
print("example held:", held.tolist(), "bytes of 12 weights as a view:", view, "as a copy:", copy)
assert torch.equal(held, example)
assert (view, copy) == (4_000_000, 48)
PYTHON
