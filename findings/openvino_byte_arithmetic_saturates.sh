#!/usr/bin/env bash
# openvino 2026.4.1 and onnxruntime 1.32.0 with onnx 1.23.2, CPU (x86-64).
# Models that take images as bytes may calculate a little on them before the cast to float. Bytes in ONNX wrap round, and
# dividing cuts off; onnxruntime does so. OpenVINO saturates at 0 and 255, and rounds what it divides. Both are tidy, and no
# small difference: a subtraction below zero is 240 in one and 0 in the other. Casting first makes them agree.
# Seen on 2026-11-27, of 250 3 7 100 and 10: added 4 13 17 110 and 255 13 17 110; subtracted 240 249 253 90 and 240 0 0 90;
# divided 25 0 0 10 and 25 0 1 10. The script fails if that changes.
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
pixels = np.array([[250, 3, 7, 100]], np.uint8)


def answers(operator):
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "ten"], ["y"])], "graph",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["batch", 4])],
        [numpy_helper.from_array(np.array(10, np.uint8), "ten")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network = core.compile_model(core.read_model(model), "CPU")
    return session.run(None, {"x": pixels})[0][0].tolist(), network(pixels)[0][0].tolist()


seen = {operator: answers(operator) for operator in ("Add", "Sub", "Div")}
print("onnxruntime, OpenVINO:", seen)
assert seen == {
    "Add": ([4, 13, 17, 110], [255, 13, 17, 110]),
    "Sub": ([240, 249, 253, 90], [240, 0, 0, 90]),
    "Div": ([25, 0, 0, 10], [25, 0, 1, 10]),
}
PYTHON
