"""`python -m minitrans` is the command `minitrans`."""

from __future__ import annotations

import sys

from minitrans.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
