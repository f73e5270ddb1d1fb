"""`python -m stagetune` is `stagetune`."""

from stagetune.cli import main

if __name__ == "__main__":
    main()
