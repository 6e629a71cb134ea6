"""Makes ``python -m spindle_trio`` the same as the command `spindle-trio`."""

from __future__ import annotations

import sys

from spindle_trio.cli import main

sys.exit(main())
