#!/usr/bin/env bash
# openvino 2026.4.1 and onnxruntime 1.32.0 with onnx 1.23.2, CPU.
# OpenVINO reads ONNX models with Resize of opset 18 and later, and leaves out what it does not know: antialias=1 (what makes
# shrinking inside a model equal to Pillow's), exclude_outside and keep_aspect_ratio_policy. Nothing is said, the model runs,
# and the images are others; with a policy even their shape. onnxruntime and onnx's own evaluator agree with one another.
# Seen on 2026-11-27, 8 x 8 random values to 3 x 5: with antialias OpenVINO gives exactly what it gives without, up to 0.3 from
# onnxruntime; without it they agree to 1e-6; not_larger is 3 x 3 in onnxruntime and 3 x 5 in OpenVINO.
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
images = np.random.default_rng(0).random((1, 2, 8, 8), np.float32)


def resized(**options):
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", axes=[2, 3], **options)], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, None, None])],
        [numpy_helper.from_array(np.array([3, 5]), "sizes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    network = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return session.run(None, {"x": images})[0], network(images)[0]


(plain_ort, plain_ov), (smooth_ort, smooth_ov) = resized(), resized(antialias=1)
print("apart without antialias:", abs(plain_ort - plain_ov).max(), "with:", abs(smooth_ort - smooth_ov).max())
assert abs(plain_ort - plain_ov).max() < 1e-6
assert np.array_equal(plain_ov, smooth_ov)
assert abs(smooth_ort - smooth_ov).max() > 0.1
shapes = [answer.shape[2:] for answer in resized(keep_aspect_ratio_policy="not_larger")]
print("not_larger, onnxruntime and OpenVINO:", shapes)
assert shapes == [(3, 3), (3, 5)]
PYTHON
