"""What the tests of JavaScript entries share."""

from __future__ import annotations

import os
import shutil

import pytest

needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="JavaScript entries need Node 20.19 or later on the PATH"
)

if os.environ.get("SPINDLE_NEEDS_NODE"):
    # Where Node has to be there, as in `.ci/run`, nothing is skipped: without it these tests say what is missing.
    needs_node = pytest.mark.skipif(False, reason="never")
