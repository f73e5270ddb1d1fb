#!/usr/bin/env bash
# onnxruntime 1.32.0 with onnx 1.23.2 (writing), onnxruntime 1.16.3 (reading), CPU.
# Before static quantisation one is told to run quant_pre_process. Its output keeps opset, IR version and metadata, but declares
# every operator domain that the writing onnxruntime knows, in its newest version, though no node uses them. An onnxruntime of
# the time for which opset and IR version were chosen refuses the file: of ai.onnx.ml 5 it knows only that it is not released.
# The quantised model inherits that. Dropping the entries of opset_import that no node uses makes the file readable again.
# Seen on 2026-11-27: version 1.16.3 reads the model as made, refuses it after quant_pre_process (one domain declared before, 9
# after) with a word on opsets, and reads it with the unused domains dropped.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for name in new old; do python3 -m venv "$work/$name"; done
"$work/new/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 sympy==1.14.0
"$work/old/bin/pip" install --quiet onnxruntime==1.16.3 "numpy<2"
cd "$work"
OMP_NUM_THREADS=1 "$work/new/bin/python" - <<'PYTHON'
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization.shape_inference import quant_pre_process

ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", ends[:1], ends[1:])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "made.onnx")
quant_pre_process("made.onnx", "processed.onnx", skip_symbolic_shape=True)
model = onnx.load("processed.onnx")
print("declared:", {entry.domain: entry.version for entry in model.opset_import})
assert model.ir_version == 8
assert len(model.opset_import) == 9
used = [entry for entry in model.opset_import if entry.domain in {node.domain for node in model.graph.node}]
del model.opset_import[:]
model.opset_import.extend(used)
onnx.save(model, "dropped.onnx")
PYTHON
OMP_NUM_THREADS=1 "$work/old/bin/python" - <<'PYTHON'
import onnxruntime

said = {}
for name in ("made", "processed", "dropped"):
    try:
        onnxruntime.InferenceSession(f"{name}.onnx", providers=["CPUExecutionProvider"])
        said[name] = "read"
    except Exception as error:
        said[name] = "refused"
        print(str(error)[-200:])
print(said)
assert said == {"made": "read", "processed": "refused", "dropped": "read"}
PYTHON
