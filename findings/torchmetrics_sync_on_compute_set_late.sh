#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.15.0, CPU, two processes joined by gloo.
# Setting `sync_on_compute` of a metric that exists does nothing: the attribute changes, but what `compute` looks at was
# copied from it when the metric was made. A metric that somebody else has made, and whose inputs are gathered already, so
# counts everything once per process, unless one overrides `distributed_available_fn`, which is asked at each compute.
# Seen on 2026-11-27: after one update by 1.0 in each of two processes a SumMetric made with sync_on_compute=False gives 1.0,
# one on which it was set afterwards gives 2.0, and one whose distributed_available_fn says False gives 1.0.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.15.0
cat > "$work/seen.py" <<'PYTHON'
import os

import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics import SumMetric


def measure(rank: int) -> None:
    dist.init_process_group("gloo", rank=rank, world_size=2)
    made, later, asked = SumMetric(sync_on_compute=False), SumMetric(), SumMetric()
    later.sync_on_compute = False
    asked.distributed_available_fn = lambda: False
    for metric in (made, later, asked):
        metric.update(1.0)
    values = [metric.compute().item() for metric in (made, later, asked)]
    if rank == 0:
        print("made with it, set later, asked:", values)
    assert values == [1.0, 2.0, 1.0]
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29577")
    mp.spawn(measure, nprocs=2)
PYTHON
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/seen.py"
