#!/usr/bin/env bash
# openvino 2026.4.1 with onnx 1.23.2, CPU.
# onnxruntime refuses an input of another type and a call without one of its inputs. OpenVINO takes both. An array of another
# type is converted to the model's as numpy would: images scaled to 0..1, given to a model that wants bytes, become black, with
# the answers of black images. (A list of the same numbers is refused.) And calling a compiled model goes on with the request of
# its last call: an input that is left out, by a wrong key or a missing batch, is that of the call before.
# Seen on 2026-11-27: 0.2 0.9 255.9 arrive as 0 0 255; p + q of (1, 10) is 11, and of p = 2 alone 12.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import openvino
from onnx import TensorProto, helper

core = openvino.Core()


def compiled(node, kind):
    ends = {name: helper.make_tensor_value_info(name, kind, ["batch", 3]) for name in node.input}
    ends["y"] = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph([node], "graph", [ends[name] for name in node.input], [ends["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    return core.compile_model(core.read_model(model), "CPU")


bytes_wanted = compiled(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT), TensorProto.UINT8)
arrived = bytes_wanted({"x": np.array([[0.2, 0.9, 255.9]], np.float32)})["y"].tolist()
print("arrived:", arrived)
assert arrived == [[0, 0, 255]]
add = compiled(helper.make_node("Add", ["p", "q"], ["y"]), TensorProto.FLOAT)
ones = np.ones((1, 3), np.float32)
sums = [float(add(given)["y"][0, 0]) for given in ({"p": ones, "q": 10 * ones}, {"p": 2 * ones})]
print("both given, then p alone:", sums)
assert sums == [11, 12]
PYTHON
