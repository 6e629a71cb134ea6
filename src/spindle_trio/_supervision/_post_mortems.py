"""Explains why a process ended: from its own words, the host's actions and the launcher's findings.

A post-mortem is made for an end that nobody asked for: `failed`, `timed_out`, and a stop that needed a kill or went
wrong. It is made after the process has been reaped and before the terminal event. Its sources are then released.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from spindle_trio._model import PostMortem, ProcessState
from spindle_trio._supervision._state_table import Input, Phase

if TYPE_CHECKING:
    from spindle_trio._supervision._lifecycle import Lifecycle
    from spindle_trio.abc import ExitStatus, LaunchedProcess

__all__ = ["LastWords", "find_out", "one_line"]

STDERR_LINES: Final = 40
STDERR_CHARACTERS: Final = 8 * 1024
"""How much of the end of stderr a post-mortem shows, at most; what a launcher has kept is more."""

TAIL_CHARACTERS: Final = 400
"""How much of that goes into the one-line form."""

_LONG_AGO: Final = -math.inf


def one_line(text: str) -> str:
    """Join the lines of a text."""
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())


class LastWords:
    """What is noted of a process's end as it comes, for its post-mortem."""

    __slots__ = ("announced", "exit_status", "limit", "traceback", "unasked")

    def __init__(self) -> None:
        self.announced: ExitStatus | None = None
        """The exit that it has announced, before its tree was killed."""
        self.exit_status: str | None = None
        """In words; the first that is learned counts."""
        self.traceback: str | None = None
        """Of the exception that has failed it."""
        self.limit: str | None = None
        """The resource limit that it had reached by then."""
        self.unasked: str | None = None
        """The error of an exit that was neither asked for nor announced by the process."""

    def note_exit(self, status: ExitStatus, life: Lifecycle, limit: str | None = None) -> None:
        """Take in how the process has ended, and which limit it had reached."""
        self.limit = limit
        if self.exit_status is None:
            is_at_limit = limit is not None and not status.out_of_memory
            by_host = is_at_limit or life.kill_deadline < math.inf or life.is_dumping
            self.exit_status = status.in_words(by_host=by_host)

    def judge_exit(self, status: ExitStatus, life: Lifecycle, *, takes_calls: bool) -> str | None:
        """Say how a process ended that was not asked to and said nothing itself.

        Args:
            status: how it ended.
            life: where it was in its life by then.
            takes_calls: whether it took calls: then its author may know nothing of last words.
        """
        if life.phase not in (Phase.STARTING, Phase.RUNNING):
            return None
        if self.limit is not None and status.signal is not None:
            self.unasked = f"killed at its limit on {self.limit}"
            return self.unasked
        words = str(status)
        has_cause = status.signal is not None and any(sign in words for sign in ",:")
        how = "while it took calls" if takes_calls else "without complete() or fail()"
        self.unasked = f"{words}{',' if has_cause else ''} {how}"
        return self.unasked


def find_out(life: Lifecycle, launched: LaunchedProcess | None, words: LastWords, lost: int) -> PostMortem | None:
    """Complete the error of a process that has ended, and explain it; `None` for an end that was asked for.

    Args:
        life: how it ends is settled, and not yet concluded.
        launched: the process, unless it never came into being.
        words: what was noted of its end.
        lost: how many of its messages have never arrived.
    """
    stderr = "" if launched is None else _last_lines(launched.stderr_tail())
    details: list[str | None] = [life.error]
    if stderr and words.unasked is not None and life.error == words.unasked:
        details[0] = f"{life.error}; the last it wrote to stderr: {_tail(one_line(stderr))}"
    limit = _limit_on_running(life) if life.settled_by is Input.RUN_DEADLINE else words.limit
    if words.limit is not None and words.limit not in (life.error or "") and _is_amiss(life):
        details.append(f"it had reached its limit on {words.limit}")
    if launched is not None and life.is_dumping:
        details.append(launched.remark())
    if lost > 0:
        details.append(f"{lost} of its messages never arrived")
    life.error = "; ".join(filter(None, details)) or None
    if not _is_amiss(life) or (life.ending_state is ProcessState.STOPPED and life.error is None):
        return None
    said = filter(None, (life.error, words.traceback, stderr))
    return PostMortem(
        life.error or "it gave no reason",
        exit_status=words.exit_status,
        traceback=words.traceback,
        stderr=stderr,
        since_heartbeat=_since_heartbeat(life, launched),
        stacks=None if launched is None else launched.stacks(),
        limit=limit,
        denied=None if launched is None else launched.denied("\n".join(said)),
    )


def _is_amiss(life: Lifecycle) -> bool:
    return life.ending_state is not ProcessState.COMPLETED


def _limit_on_running(life: Lifecycle) -> str:
    from spindle_trio._model._resource_limits import limit_text  # most processes have no limits

    assert life.settled_at is not None, "its end is settled"
    assert life.ready_at is not None, "it has run"
    return limit_text("run_seconds", life.settled_at - life.ready_at, life.run_seconds)


def _since_heartbeat(life: Lifecycle, launched: LaunchedProcess | None) -> float | None:
    if life.heartbeat_at is None or life.settled_at is None:
        return None
    # The table looks at heartbeats only while they matter to it.
    seen = _LONG_AGO if launched is None else launched.last_heartbeat()
    return round(max(0.0, life.settled_at - max(life.heartbeat_at, seen)), 3)


def _last_lines(text: str) -> str:
    return "\n".join(text.strip()[-STDERR_CHARACTERS:].split("\n")[-STDERR_LINES:]).strip()


def _tail(text: str) -> str:
    return text if len(text) <= TAIL_CHARACTERS else f"…{text[-TAIL_CHARACTERS:]}"
