"""How a process comes to exist and how it ends: launchers, independent of one another."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from spindle_trio.launchers._python import PythonLauncher as PythonLauncher

__all__ = ["PythonLauncher"]  # made on first use, see below


def __getattr__(name: str) -> object:
    if name != "PythonLauncher":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from spindle_trio.launchers._python import PythonLauncher

    globals()[name] = PythonLauncher
    return PythonLauncher


def __dir__() -> list[str]:
    return sorted(__all__)
