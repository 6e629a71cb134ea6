"""Has a skip inside a Trio nursery keep its reason, which pytest-trio drops."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Raise the skip that was raised first, from within groups, in place of the bare one."""
    try:
        return (yield)
    except pytest.skip.Exception as bare:
        cause = bare.__context__
        while isinstance(cause, BaseExceptionGroup):
            (cause, *_) = cause.exceptions
        if isinstance(cause, pytest.skip.Exception):
            raise cause from None
        raise
