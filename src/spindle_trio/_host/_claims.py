"""What the registry hands out: the right to have one live process, and what becomes of its key at the end."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from spindle_trio._model import ProcessInfo, ProcessState


class Listed(Protocol):
    """What the registry needs to know of a process."""

    @property
    def process_id(self) -> str:
        """Unique in this registry."""

    @property
    def user_id(self) -> str | None:
        """The owner of the process."""

    @property
    def kind(self) -> str:
        """Its label."""

    @property
    def key(self) -> str | None:
        """Its key."""

    @property
    def state(self) -> ProcessState:
        """Its state."""

    @property
    def info(self) -> ProcessInfo:
        """Its snapshot."""


Place: TypeAlias = tuple[str | None, str, str]
"""User, kind and key, as a tuple: joined into one string, keys of different users could collide."""


class Fate(enum.IntEnum):
    """What becomes of a key when its process ends and no replacement waits. The highest that applies counts."""

    KEPT = 0
    """It is kept for a successor, if its spawn asked for that: the process ended by itself."""
    GIVEN_BACK = 1
    """It is kept again for the process from which it was taken over: the caller of spawn was cancelled."""
    FREED = 2
    """It is free: somebody has asked the process to stop."""


@attrs.define(eq=False)
class KeptKey:
    """A key that is kept for the successor of a process that has ended."""

    place: Place
    """User, kind and key."""
    info: ProcessInfo
    """The last snapshot of that process."""
    took: KeptKey | None
    """The one that it had taken over itself, until a successor comes."""


@attrs.define(eq=False)
class Keeping:
    """What becomes of a claim's key at the end; only one that keeps its key, or has taken over a kept one, has this."""

    is_asked: bool
    """Whether its key is kept for a successor."""
    took: KeptKey | None = None
    """What it has taken over."""
    fate: Fate = Fate.KEPT
    """What becomes of its key at the end."""


@attrs.define(eq=False)
class Claim:
    """The right to have one live process."""

    place: Place | None
    """The key it holds or waits for; `None` for a process without a key."""
    on_turn: Callable[[], None]
    """Called, once, when a claim that had to wait has its turn."""
    replace_grace: float | None = None
    """Seconds that its predecessor has to end; `None` for the predecessor's own grace period."""
    is_waiting: bool = False
    """Whether its predecessor still holds the key."""
    holder: Listed | None = None
    """The process that was launched with it."""
    last_info: ProcessInfo | None = None
    """The last snapshot of who had the key before, while this claim has the key and no process."""
    keeping: Keeping | None = None
    """What becomes of its key, if that may be kept."""

    def free_key(self) -> None:
        """Keep the key for nobody: its process was asked to stop. Nothing that is said later changes that."""
        if self.keeping is not None:
            self.keeping.fate = Fate.FREED

    def give_back_key(self) -> None:
        """Keep the key for the process that had it before, if there was one: nobody wants the one that has it now."""
        if self.keeping is not None:
            self.keeping.fate = max(self.keeping.fate, Fate.GIVEN_BACK)
