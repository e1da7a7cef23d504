"""``python -m lightning_interactions.cli``, where the entry point is not on the path."""

import sys

from lightning_interactions.cli.main import main

sys.exit(main())
