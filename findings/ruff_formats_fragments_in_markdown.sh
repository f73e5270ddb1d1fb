#!/usr/bin/env bash
# ruff 0.17.5
#
# `ruff format` also formats fenced Python in Markdown files, without an option, and takes each block for a whole
# program: a fragment that is meant to be put into longer code and happens to parse is rewritten into what it means by
# itself. Part of a list of arguments, `"a", "b",`, is a tuple: it becomes one in parentheses, a line for each item. Lines
# that are indented, to go into a function, stay so where nothing is to be formatted in them, and lose their indentation
# where something is, even a blank. A fence without a language is left alone.
#
# Seen: blocks 1 and 3 are rewritten, 2 and 4 are not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ruff==0.17.5
python3 - "$folder" <<'PYTHON'
import sys
from pathlib import Path

def page(*blocks):
    return "\n".join(f"```{language}\n{text}```\n" for language, text in blocks)

folder = Path(sys.argv[1])
neat, loose = "    if a:\n        b()\n", "    if a:\n        b( )\n"
before = [("python", '"a", "b",\n'), ("python", neat), ("python", loose), ("", '"a", "b",\n')]
after = [("python", '(\n    "a",\n    "b",\n)\n'), ("python", neat), ("python", "if a:\n    b()\n"), ("", '"a", "b",\n')]
(folder / "page.md").write_text(page(*before))
(folder / "expected.md").write_text(page(*after))
PYTHON
"$folder/venv/bin/ruff" format --quiet --no-cache --isolated "$folder/page.md"
cat "$folder/page.md"
diff "$folder/page.md" "$folder/expected.md"
