"""Run an experiment: `python train.py +experiment=siamese_staged` is `stagetune train +experiment=siamese_staged`."""

import os
import sys

# so that a checkout runs that is not installed, too; pathlib's import would delay the hearing of Ctrl-C
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "src"))

if __name__ == "__main__":
    from stagetune.__main__ import main

    main(["train", *sys.argv[1:]])
