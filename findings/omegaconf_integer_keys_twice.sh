#!/usr/bin/env bash
# omegaconf 2.3.1 with PyYAML 6.0.3.
# OmegaConf refuses a mapping in which a key stands twice, but only where the key is text: of an integer key that stands
# twice the first value is lost without a word. Files that number their parts (phases 0, 1, 2 of a schedule) lose one so.
# Seen on 2026-11-27: "a" twice raises ConstructorError (found duplicate key a); 0 twice loads as {0: 'second', 1: 'third'}.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet omegaconf==2.3.1 PyYAML==6.0.3
"$work/venv/bin/python" - <<'PYTHON'
from omegaconf import OmegaConf
from yaml.constructor import ConstructorError

loaded = OmegaConf.to_container(OmegaConf.create("0: first\n0: second\n1: third\n"))
print("0 twice:", loaded)
assert loaded == {0: "second", 1: "third"}
try:
    OmegaConf.create("a: first\na: second\n")
except ConstructorError as error:
    print("a twice:", error.problem)
    assert error.problem == "found duplicate key a"
else:
    raise AssertionError("text keys may stand twice, too")
PYTHON
