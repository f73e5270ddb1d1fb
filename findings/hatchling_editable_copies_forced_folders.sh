#!/usr/bin/env bash
# hatchling 1.33.0, pip, Python 3.11
#
# An editable install of a project whose wheel forces a folder into its package ([tool.hatch.build.targets.wheel.
# force-include] settings = "thing/settings") links the sources by a .pth file, but copies the forced folder: once, so
# that edits of it are not seen there. It lies in site-packages/thing, without an __init__.py. The package itself is still
# found, further on in sys.path; where its sources are gone (a moved checkout), `import thing` does not fail but gives an
# empty namespace package.
#
# Seen: the copy keeps the old text after an edit; without the sources the import gives a module without a file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hatchling==1.33.0 editables==0.5
mkdir -p "$folder/project/src/thing" "$folder/project/settings"
echo 'value = 1' > "$folder/project/src/thing/__init__.py"
echo 'old' > "$folder/project/settings/a.txt"
cat > "$folder/project/pyproject.toml" <<'TOML'
[build-system]
requires = ["hatchling==1.33.0"]
build-backend = "hatchling.build"

[project]
name = "thing"
version = "1"

[tool.hatch.build.targets.wheel]
packages = ["src/thing"]

[tool.hatch.build.targets.wheel.force-include]
settings = "thing/settings"
TOML
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-build-isolation -e "$folder/project"
echo 'new' > "$folder/project/settings/a.txt"
packages=$("$folder/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
copied=$(cat "$packages/thing/settings/a.txt")
found=$(cd / && "$folder/venv/bin/python" -c 'import thing; print(thing.value)')
rm -r "$folder/project/src"
gone=$(cd / && "$folder/venv/bin/python" -c 'import thing; print(thing.__file__)')
echo "$copied $found $gone"
test "$copied $found $gone" = "old 1 None"
