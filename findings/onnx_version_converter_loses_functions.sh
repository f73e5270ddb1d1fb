#!/usr/bin/env bash
# onnx 1.23.2 and onnxruntime 1.32.0, CPU.
# onnx.version_converter keeps metadata, names of dimensions and weights, and drops the model's local functions while their
# calls stay in the graph. The result passes onnx.checker (a call into an unknown domain is allowed), is saved, and only the
# runtime says that it is no such operator. Exporters write functions for modules and for operators of their own: inline them
# before (onnx.inliner.inline_local_functions).
# Seen on 2026-11-27, opset 18 to 20: 1 function before, 0 after, the call is still there, the checker is content, onnxruntime
# refuses; inlined first, the same model is converted and runs.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, inliner, version_converter

opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
function = helper.make_function("local", "Block", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets[:1])
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Block", ["x"], ["y"], domain="local")], "graph", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)


def runs(model):
    onnx.checker.check_model(model, full_check=True)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        print(error)
        return False
    return session.run(None, {"x": np.array([[-1, 0, 1]], np.float32)})[0].tolist() == [[0, 0, 1]]


converted = version_converter.convert_version(model, 20)
inlined = version_converter.convert_version(inliner.inline_local_functions(model), 20)
counts = [len(model.functions), len(converted.functions), converted.graph.node[0].op_type]
seen = [*counts, runs(model), runs(converted), runs(inlined)]
print("functions before and after, call; runs before, after, inlined first:", seen)
assert seen == [1, 0, "Block", True, False, True]
PYTHON
