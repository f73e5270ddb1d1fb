#!/usr/bin/env bash
# onnx 1.23.2, onnxruntime 1.32.0, openvino 2026.4.1, CPU.
# Up to opset 12 Softmax took everything from its axis on as one row: over 4 values of shape 1 x 2 x 2 at axis 1 it is 0.25.
# Since 13 it goes along one axis: 0.5. onnxruntime tells the two by the model's opset. OpenVINO and onnx's own
# ReferenceEvaluator, which one would take as the judge between the other two, calculate the new one for old files as well.
# Where the input has two dimensions or the axis is the last, all agree, so that classifiers look right and attention or
# segmentation heads are not. onnx's version converter gets it right.
# Seen on 2026-11-27, opset 11: onnxruntime 0.25, OpenVINO 0.5, evaluator 0.5; converted to 13 all three 0.25.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnx==1.23.2 onnxruntime==1.32.0 openvino==2026.4.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

core = openvino.Core()
zeros = np.zeros((1, 2, 2), np.float32)
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=1)], "graph", ends[:1], ends[1:])
old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
seen = {}
for name, model in (("opset 11", old), ("converted to 13", version_converter.convert_version(old, 13))):
    raw = model.SerializeToString()
    session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
    network = core.compile_model(core.read_model(raw), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answers = session.run(None, {"x": zeros})[0], network(zeros)[0], ReferenceEvaluator(model).run(None, {"x": zeros})[0]
    seen[name] = [float(answer.flat[0]) for answer in answers]
    print(name, "onnxruntime, OpenVINO, evaluator:", seen[name])
assert seen == {"opset 11": [0.25, 0.5, 0.5], "converted to 13": [0.25, 0.25, 0.25]}
PYTHON
