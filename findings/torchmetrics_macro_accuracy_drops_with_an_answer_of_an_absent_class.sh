#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.15.0, and scikit-learn 1.9.1, CPU.
# Balanced accuracy is the mean recall of the classes that there are images of; torchmetrics' accuracy with average="macro" reads
# as that, and agrees with scikit-learn's balanced_accuracy_score as long as nobody answers with a class that is absent from the
# targets. One such answer makes the absent class count, with an accuracy of 0: what was a mistake about one image takes a whole
# class's share, and the value depends on which wrong class was answered. A small test, in which some class has no image, is
# where that happens. Recall with average="macro" does the same.
# Seen on 2026-11-27, targets 0 0 0 1 1: with the third answered 1, both say 0.833; with the third answered 2, scikit-learn says
# 0.833 and torchmetrics 0.556; with all right and three classes declared, both say 1.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.15.0 scikit-learn==1.9.1
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from sklearn.metrics import balanced_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_recall

targets = torch.tensor([0, 0, 0, 1, 1])
seen = {}
for name, third in (("right", 0), ("of a present class", 1), ("of the absent class", 2)):
    answers = torch.tensor([0, 0, third, 1, 1])
    ours = [float(f(answers, targets, num_classes=3, average="macro")) for f in (multiclass_accuracy, multiclass_recall)]
    seen[name] = [round(value, 3) for value in (balanced_accuracy_score(targets, answers), *ours)]
    print(f"third answer {name}: scikit-learn, torchmetrics accuracy, recall:", seen[name])
assert list(seen.values()) == [[1.0, 1.0, 1.0], [0.833, 0.833, 0.833], [0.833, 0.556, 0.556]]
PYTHON
