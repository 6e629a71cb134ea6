"""What an entry file imports: the contexts that its `run(process)` is given, the notice of a stop, and what tells a
handler of its call.

Lazy, so that ``from spindle_trio.child import BlockingProcessContext`` in a blocking entry loads no Trio.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.child._async_context import ProcessContext as ProcessContext
    from spindle_trio.child._blocking_context import BlockingProcessContext as BlockingProcessContext
    from spindle_trio.child._calls import CallCancelled as CallCancelled
    from spindle_trio.child._calls import CallContext as CallContext
    from spindle_trio.child._handlers import StopNotice as StopNotice

__all__ = [
    "BlockingProcessContext",
    "CallCancelled",
    "CallContext",
    "ProcessContext",
    "StopNotice",
]  # made on first use, see below

_HOMES = {
    "BlockingProcessContext": "spindle_trio.child._blocking_context",
    "CallCancelled": "spindle_trio.child._calls",
    "CallContext": "spindle_trio.child._calls",
    "ProcessContext": "spindle_trio.child._async_context",
    "StopNotice": "spindle_trio.child._handlers",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # `importlib` would do the same at the price of an import of its own.
    value: object = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
