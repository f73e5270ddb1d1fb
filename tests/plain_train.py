"""train.py for tests that look at no pictures: drawing them takes half the time of a short run."""

import sys

from stagetune.cli import main
from stagetune.run import experiment

if __name__ == "__main__":
    experiment.draw_run = lambda *_: None
    main(["train", *sys.argv[1:]])
