"""Run an experiment: `python train.py +experiment=siamese_staged` is `stagetune train +experiment=siamese_staged`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))  # so that a checkout runs that is not installed, too

if __name__ == "__main__":
    from stagetune.__main__ import main

    main(["train", *sys.argv[1:]])
