"""Launchers start and end processes. They are independent of one another."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.launchers._default import DefaultLauncher as DefaultLauncher
    from spindle_trio.launchers._fork import DEFAULT_PRELOAD as DEFAULT_PRELOAD
    from spindle_trio.launchers._fork import ForkServerLauncher as ForkServerLauncher
    from spindle_trio.launchers._node import NodeLauncher as NodeLauncher
    from spindle_trio.launchers._python import PythonLauncher as PythonLauncher

__all__ = [
    "DEFAULT_PRELOAD",
    "DefaultLauncher",
    "ForkServerLauncher",
    "NodeLauncher",
    "PythonLauncher",
]  # made on first use, see below

_HOMES = {
    "DEFAULT_PRELOAD": "spindle_trio.launchers._fork",
    "DefaultLauncher": "spindle_trio.launchers._default",
    "ForkServerLauncher": "spindle_trio.launchers._fork",
    "NodeLauncher": "spindle_trio.launchers._node",
    "PythonLauncher": "spindle_trio.launchers._python",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
