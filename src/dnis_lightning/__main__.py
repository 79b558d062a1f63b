"""`python -m dnis_lightning`: parse, call, print errors."""

from __future__ import annotations

import os
import sys

# read when torch is loaded: huge pages make sweeps over large tables faster
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def main() -> None:
    """Compose the configuration and run the job or the sweep; exits with 1 and a sentence on a user's mistake."""
    from dnis_lightning.command import execute

    sys.exit(execute())


if __name__ == "__main__":
    main()
