#!/usr/bin/env bash
# pyarrow 25.0.1.
# Embeddings in a table are naturally fixed-size lists. A row without one (an image that could not be read) is null in Arrow,
# and Parquet knows nulls; write_table takes the column without a word, and the file cannot be read: a missing list has no
# values in Parquet, and the reader, told by the stored schema that all have n, finds one of 0. Nothing is lost: a file written
# with store_schema=False, or as list instead of fixed-size list, reads and can be cast to fixed size, nulls and all.
# Seen on 2026-11-27: [[1, 2], null, [3, 4]] is written and refused on reading ("... of size=2 but index 2 had size=0"); without
# the stored schema it reads as list and casts to what it was.
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pyarrow==25.0.1
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import pyarrow as pa
import pyarrow.parquet as pq

fixed = pa.list_(pa.float32(), 2)
table = pa.table({"embedding": pa.array([[1, 2], None, [3, 4]], fixed)})
pq.write_table(table, "stored.parquet")
try:
    pq.read_table("stored.parquet")
except pa.ArrowInvalid as error:
    print("refused:", error)
else:
    raise AssertionError("it reads now")
pq.write_table(table, "plain.parquet", store_schema=False)
column = pq.read_table("plain.parquet")["embedding"]
print("without the schema:", column.type, column.cast(fixed).to_pylist())
assert column.cast(fixed).to_pylist() == table["embedding"].to_pylist()
pq.write_table(table.drop_null(), "whole.parquet")
assert pq.read_table("whole.parquet")["embedding"].type == fixed
PYTHON
