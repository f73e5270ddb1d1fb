#!/usr/bin/env bash
# onnxruntime 1.32.0 with onnx 1.23.2, CPU.
# quantize_static(nodes_to_exclude=...) keeps sensitive layers in float, by name. A name that no node has is no error; and
# quant_pre_process, which one is told to run first, joins nodes under names of its own. So a list that was written by looking
# at the exported file excludes nothing, and the layer is quantised without a word. Names must be read from the pre-processed
# file. The same holds of nodes_to_quantize and op_types_to_quantize, where a wrong name leaves the whole model in float.
# Seen on 2026-11-27: MatMul "head" and Add "bias" are one Gemm "head/MatMulAddFusion" after pre-processing; with
# nodes_to_exclude=["head", "bias"] the Gemm has quantised weights, with its new name it has none.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0
cd "$work"
OMP_NUM_THREADS=1 "$work/venv/bin/python" - 2> errors <<'PYTHON' || { cat errors; exit 1; }
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

weights = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["m"], name="head"), helper.make_node("Add", ["m", "b"], ["y"], name="bias")],
    "graph",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
    [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(weights[0], "b")],
)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "made.onnx")
quant_pre_process("made.onnx", "processed.onnx", skip_symbolic_shape=True)
[node] = onnx.load("processed.onnx").graph.node
print("after pre-processing:", node.op_type, node.name)
assert (node.op_type, node.name) == ("Gemm", "head/MatMulAddFusion")


class Rows(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": weights.T.copy()}])

    def get_next(self):
        return next(self.batches, None)


quantised = {}
for names in (("head", "bias"), ("no such node",), (node.name,)):
    quantize_static("processed.onnx", "int8.onnx", Rows(), quant_format=QuantFormat.QDQ, nodes_to_exclude=list(names))
    quantised[names] = any(weight.data_type == TensorProto.INT8 for weight in onnx.load("int8.onnx").graph.initializer)
print("quantised by excluded names:", quantised)
assert list(quantised.values()) == [True, True, False]
PYTHON
