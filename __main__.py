"""`python -m sgdphases` is `sgdphases`."""

from sgdphases.cli import main

if __name__ == "__main__":
    main()
