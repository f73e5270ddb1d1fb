#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6.
# The same tensors with the same metadata make another file each time as soon as the metadata has two keys or more: tensors are
# sorted, metadata are written in an order that changes from call to call and is not the order of the dict. A file's
# hash so says nothing about whether a model is the same, a cache that knows files by their hash never hits, and reading the
# metadata gives keys in yet another order. One key (say, all settings as one JSON text) makes files equal.
# Seen on 2026-11-27: 20 calls in one process with 8 keys make 20 different files; with one key they make 1.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import save

tensors = {name: np.zeros(2, np.float32) for name in "abcdefgh"}
files = {keys: len({save(tensors, metadata=dict.fromkeys("abcdefgh"[:keys], "x")) for _ in range(20)}) for keys in (1, 8)}
print("different files of 20 by number of metadata keys:", files)
assert files[1] == 1
assert files[8] > 10
PYTHON
