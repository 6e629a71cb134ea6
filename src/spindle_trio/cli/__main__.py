"""Make ``python -m spindle_trio.cli`` the same as the command `spindle-trio`."""

from __future__ import annotations

import sys

from spindle_trio.cli._main import main

sys.exit(main())
