"""`python -m stagetune` is `stagetune`, and as it is installed: it can be stopped while all else is imported."""

from collections.abc import Sequence

from stagetune.interrupts import end_on_signals, ignore_signals, stopped_by


def main(arguments: Sequence[str] | None = None) -> None:
    """What the words of a command line ask for, as `cli.main`, of which this is the whole process."""
    end_on_signals()
    from stagetune.cli import main as command  # takes its time

    try:
        command(arguments)
    finally:
        if stopped_by():
            ignore_signals()  # ending takes a moment, too


if __name__ == "__main__":
    main()
