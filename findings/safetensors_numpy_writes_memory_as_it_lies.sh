#!/usr/bin/env bash
# safetensors 0.8.0 with numpy 2.4.6.
# safetensors.torch refuses a tensor that is not contiguous. safetensors.numpy takes such an array and writes its memory as it
# lies, under the array's shape: a transposed array, or one in Fortran order (as pandas' to_numpy and linear algebra routines
# often return), comes back with the right shape and dtype and its values in other places. Nothing is said. For embeddings that
# means vectors that belong to nobody.
# Seen on 2026-11-27: of [[0 1 2] [3 4 5]] the transposed array loads as [[0 1] [2 3] [4 5]], and the array in Fortran order as
# [[0 3 1] [4 2 5]]; numpy.ascontiguousarray before saving keeps both.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
from safetensors.numpy import load, save

array = np.arange(6, dtype=np.float32).reshape(2, 3)
given = {"transposed": array.T, "fortran": np.asfortranarray(array)}
loaded = load(save(given))
print({name: value.tolist() for name, value in loaded.items()})
assert loaded["transposed"].tolist() == [[0, 1], [2, 3], [4, 5]] != array.T.tolist()
assert loaded["fortran"].tolist() == [[0, 3, 1], [4, 2, 5]] != array.tolist()
kept = load(save({name: np.ascontiguousarray(value) for name, value in given.items()}))
assert all(np.array_equal(kept[name], value) for name, value in given.items())
PYTHON
