#!/usr/bin/env bash
# openvino 2026.4.1 and onnxruntime 1.32.0 with onnx 1.23.2, CPU (x86-64).
# A check that a network's answers are finite finds broken weights or inputs in PyTorch and onnxruntime, where NaN goes through
# every layer. In OpenVINO the first Relu or Clip makes 0 of it, HardSigmoid makes 1, and a maximum passes it over: the answers
# are finite numbers of a plausible size, and the check never speaks. Look at the weights, or let onnxruntime answer once.
# Seen on 2026-11-27, of NaN -1 2: Relu NaN 0 2 and 0 0 2; Clip from 0 NaN 0 2 and 0 0 2; ReduceMax NaN and 2; Tanh is NaN in
# both.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, numpy_helper

core = openvino.Core()
values = np.array([[np.nan, -1, 2]], np.float32)


def answers(operator, *more):
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *more], ["y"])], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.array(0, np.float32), "zero")] if more else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, {"x": values})[0][0], network(values)[0][0]


nan = np.nan
expected = {
    ("Relu",): ([nan, 0, 2], [0, 0, 2]),
    ("Clip", "zero"): ([nan, 0, 2], [0, 0, 2]),
    ("ReduceMax",): ([nan], [2]),
}
for call, answer in expected.items():
    seen = answers(*call)
    print(call[0], "onnxruntime, OpenVINO:", *seen)
    for one, other in zip(seen, answer, strict=True):
        np.testing.assert_array_equal(one, other)
assert all(np.isnan(answer[0]) for answer in answers("Tanh"))
PYTHON
