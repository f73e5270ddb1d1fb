#!/usr/bin/env bash
# onnxruntime 1.32.0 with onnx 1.23.2, CPU.
# Networks trained with weight decay have dead channels: all weights zero, what is left is the bias that BatchNorm folded in.
# Static quantisation per channel keeps a bias as an integer in steps of (scale of the input) x (scale of the weights). Very
# small weights are taken care of: their scale is raised so that the bias fits. Weights that are exactly zero get scale 1, so
# that the bias is rounded to steps of the input's scale: for an input of 0 to 255 to whole numbers, however fine the output's
# own scale is.
# Seen on 2026-11-27, bias 0.4 in two channels, input 0..255, output within -1..1: the channel with weights of 1e-9 answers
# 0.40, the one with zero weights 0.00. The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2> errors <<'PYTHON' || { cat errors; exit 1; }
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

images = np.random.default_rng(0).uniform(0, 255, (16, 1, 4, 4)).astype(np.float32)
images[0], images[1] = 0, 255
weights = np.array([1 / 255, 0, 1e-9], np.float32).reshape(3, 1, 1, 1)
bias = np.array([0, 0.4, 0.4], np.float32)
graph = helper.make_graph(
    [helper.make_node("Conv", ["x", "weights", "bias"], ["y"])], "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 4, 4])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, 4, 4])],
    [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "fp32.onnx")


class Images(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": images}])

    def get_next(self):
        return next(self.batches, None)


quantize_static(
    "fp32.onnx", "int8.onnx", Images(), quant_format=QuantFormat.QDQ, per_channel=True,
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
)
answers = {}
for name in ("fp32", "int8"):
    session = onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
    answers[name] = [round(float(mean), 2) for mean in session.run(None, {"x": images})[0].mean((0, 2, 3))]
print("means per channel (alive, zero weights, tiny weights):", answers)
assert answers["fp32"][1:] == [0.4, 0.4]
assert answers["int8"][1:] == [0.0, 0.4]
PYTHON
