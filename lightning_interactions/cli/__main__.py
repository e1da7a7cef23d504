"""``python -m lightning_interactions.cli``, where the entry point is not on the path."""

import sys

from lightning_interactions.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
