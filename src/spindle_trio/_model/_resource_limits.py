"""What a process and all that it starts may use, and what they use: frozen values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import attrs

from spindle_trio._model._field_docs import show_fields
from spindle_trio._model._values import is_number

__all__ = ["ResourceLimits", "limit_text", "size_text"]

_LARGEST: Final = 2**63 - 1
"""The largest number that a limit of the system can be."""


def _check_count(_: object, attribute: attrs.Attribute[int | None], value: object) -> None:
    if value is not None and not (type(value) is int and 1 <= value <= _LARGEST):
        what = "bytes" if attribute.name in _IN_BYTES else _UNITS[attribute.name]
        raise ValueError(f"{attribute.name} must be a whole number of {what}, 1 or more, or None, not {value!r}")


def _check_number(_: object, attribute: attrs.Attribute[float | None], value: object) -> None:
    if value is not None and not _is_positive(value, most=_LARGEST):
        raise ValueError(
            f"{attribute.name} must be a positive, finite number of {_UNITS[attribute.name]}, or None, not {value!r}"
        )


def _check_run_seconds(_: object, attribute: attrs.Attribute[float], value: object) -> None:
    if value != math.inf and not _is_positive(value, most=_LARGEST):
        raise ValueError(f"run_seconds must be a positive number of seconds, or math.inf for no limit, not {value!r}")


def _is_positive(value: object, *, most: float) -> bool:
    return is_number(value) and isinstance(value, int | float) and 0 < value <= most


_IN_BYTES: Final = frozenset({"memory", "file_bytes"})
_UNITS: Final[Mapping[str, str]] = {
    "pids": "processes and threads",
    "cpus": "processors",
    "cpu_seconds": "seconds",
    "open_files": "descriptors",
}


@show_fields
@attrs.frozen(kw_only=True)
class ResourceLimits:
    """What a process may use, together with all that it starts. `None` is no limit.

    Memory, pids and cpus are those of the whole tree. Where the host may make control groups, the kernel holds them;
    else the host looks at the tree often, and ends it when it is over. `host.statistics().limit_means` tells which.

    Raises:
        ValueError: a limit is no number, 0 or negative, or is no whole number where only those make sense.
    """

    memory: int | None = attrs.field(default=None, validator=_check_count)
    """Bytes of memory of the whole tree. Over it, the tree is killed."""
    pids: int | None = attrs.field(default=None, validator=_check_count)
    """Processes and threads of the whole tree."""
    cpus: float | None = attrs.field(default=None, validator=_check_number)
    """Processors that the whole tree may keep busy, as in 0.5; it is slowed down to that."""
    cpu_seconds: float | None = attrs.field(default=None, validator=_check_number)
    """Seconds of processor time; over it, it is killed."""
    open_files: int | None = attrs.field(default=None, validator=_check_count)
    """Descriptors that each process of the tree may have open."""
    file_bytes: int | None = attrs.field(default=None, validator=_check_count)
    """Bytes that a file may have that one of its processes writes."""
    run_seconds: float = attrs.field(default=math.inf, validator=_check_run_seconds)
    """Seconds that it may run, from ready on; after them it ends as `timed_out`. `math.inf` is no limit."""

    def __repr__(self) -> str:
        return f"ResourceLimits({', '.join(f'{name}={value!r}' for name, value in self.given().items())})"

    def given(self) -> dict[str, float]:
        """Return the limits that there are, by name."""
        return {
            name: value
            for name, value in attrs.asdict(self).items()
            if value is not None and not (name == "run_seconds" and value == math.inf)
        }


_STEPS: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def size_text(size: int) -> str:
    """Write a number of bytes for people, as in ``512 MiB``."""
    for step, unit in _STEPS:
        if size >= step:
            return f"{size / step:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} bytes"


def limit_text(name: str, used: float, bound: float) -> str:
    """Say that a limit was reached, as in ``memory: 512 MiB used of 512 MiB``; for `LaunchedProcess.limit_hit`.

    Args:
        name: the field of `ResourceLimits`.
        used: the figure.
        bound: the limit.
    """
    if name in _IN_BYTES:
        return f"{name}: {size_text(int(used))} used of {size_text(int(bound))}"
    unit = " s" if name.endswith("_seconds") else ""
    return f"{name}: {round(used, 1):g}{unit} used of {bound:g}{unit}"
