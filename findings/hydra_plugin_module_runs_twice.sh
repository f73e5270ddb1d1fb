#!/usr/bin/env bash
# hydra-core 1.3.8 (omegaconf 2.3.1), Python 3.11
#
# A plugin's module below the namespace package hydra_plugins that a program has imported already is run a second time
# as Hydra looks for plugins: its classes are made anew, and what is in sys.modules afterwards is still the first one. So
# an instance that Hydra makes is no instance of the class that the program imported, and what the module keeps in
# globals exists twice.
#
# Seen: the module runs 2 times; isinstance is False; the classes have one name and are two.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hydra-core==1.3.8 omegaconf==2.3.1
mkdir "$folder/hydra_plugins"
cat > "$folder/hydra_plugins/ours.py" <<'PYTHON'
import builtins

from hydra.plugins.search_path_plugin import SearchPathPlugin

builtins.times = getattr(builtins, "times", 0) + 1


class Ours(SearchPathPlugin):
    def manipulate_search_path(self, search_path):
        builtins.asked = self
PYTHON
cat > "$folder/program.py" <<'PYTHON'
import builtins

from hydra import compose, initialize
from hydra_plugins.ours import Ours

with initialize(version_base=None, config_path=None):
    compose()
print(builtins.times, isinstance(builtins.asked, Ours), type(builtins.asked).__qualname__ == Ours.__qualname__)
PYTHON
seen=$(cd "$folder" && "$folder/venv/bin/python" program.py)
echo "$seen"
test "$seen" = "2 False True"
