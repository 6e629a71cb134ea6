"""Each test here runs where Node is installed, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.javascript import needs_node, stage

__all__ = ["stage"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(needs_node)
