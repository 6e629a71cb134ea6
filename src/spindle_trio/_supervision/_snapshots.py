"""What others see of a process: its snapshots, its events, and the texts of refusals that name it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import attrs
import trio

from spindle_trio._errors import (
    LaunchError,
    SpawnError,
    StartupCancelledError,
    StartupFailedError,
    StartupTimeoutError,
)
from spindle_trio._model import EndedProcess, ExitReason, LifecycleEvent, PostMortem, ProcessInfo, ProcessState

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from spindle_trio._model._usage import Usage
    from spindle_trio._supervision._lifecycle import Lifecycle, Transition
    from spindle_trio._supervision._process_record import Identity, ProcessConfig, ProcessRecord


KEPT_CHARACTERS: Final = 64 * 1024
"""Of each text that is kept of a process that has ended."""

_NEVER_READY: Final = (
    "it never called process.ready(); call that as soon as the entry can work, before it returns or completes"
    " (its result is the error's .result)"
)
"""Why a process whose entry has simply run to its end has failed to start, and what to do."""


class KeptEnd(NamedTuple):
    """What is kept of a process that has ended, for `host.recent()`; it is described on demand."""

    identity: Identity
    config: ProcessConfig
    life: Times
    post_mortem: PostMortem | None
    peaks: Usage | None
    status: str | None


class Times(NamedTuple):
    """When things happened to a process that has ended, and how it ended."""

    state: ProcessState
    started_at: float
    ready_at: float | None
    heartbeat_at: float | None
    ended_at: float | None
    exit_reason: ExitReason | None
    error: str | None


def keep_end(record: ProcessRecord) -> KeptEnd:
    """Take down what is kept of a process that has just ended. Its result is not, since it may be large."""
    life = record.life
    return KeptEnd(
        record.identity,
        record.config,
        Times(
            life.state,
            life.started_at,
            life.ready_at,
            life.heartbeat_at,
            life.ended_at,
            life.exit_reason,
            _cut(life.error),
        ),
        None if record.post_mortem is None else _cut_post_mortem(record.post_mortem),
        record.peaks,
        record.status,
    )


def show_end(kept: KeptEnd) -> EndedProcess:
    """Describe a process that has ended."""
    info = _describe(kept.identity, kept.config.wall_time, kept.life, kept.peaks, kept.status)
    return EndedProcess(kept.config.worker, info, kept.post_mortem)


def _cut_post_mortem(whole: PostMortem) -> PostMortem:
    return attrs.evolve(
        whole,
        error=_cut(whole.error) or "",
        traceback=_cut(whole.traceback),
        stderr=_cut(whole.stderr) or "",
        stacks=_cut(whole.stacks),
    )


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]}…"


def take_snapshot(record: ProcessRecord) -> ProcessInfo:
    """Describe a process as it is now."""
    record.look_at_heartbeat()
    return _describe(record.identity, record.config.wall_time, record.life, record.peaks, record.status)


def _describe(
    identity: Identity,
    wall_time: Callable[[float], datetime],
    life: Lifecycle | Times,
    peaks: Usage | None,
    status: str | None,
) -> ProcessInfo:
    return ProcessInfo(
        process_id=identity.process_id,
        entry=identity.entry,
        kind=identity.kind,
        key=identity.key,
        state=life.state,
        user_id=identity.user_id,
        metadata=identity.metadata,
        started_at=wall_time(life.started_at),
        ready_at=None if life.ready_at is None else wall_time(life.ready_at),
        last_heartbeat_at=None if life.heartbeat_at is None else wall_time(life.heartbeat_at),
        ended_at=None if life.ended_at is None else wall_time(life.ended_at),
        exit_reason=life.exit_reason,
        error=life.error if life.state.is_terminal else None,
        peak_memory=None if peaks is None else peaks.memory,
        processor_seconds=None if peaks is None else peaks.processor_seconds,
        status=status,
    )


def write_event(record: ProcessRecord, transition: Transition) -> LifecycleEvent:
    """Write one of its transitions as what subscribers are told."""
    identity, peaks = record.identity, record.peaks
    is_terminal = transition.state.is_terminal
    return LifecycleEvent(
        process_id=identity.process_id,
        entry=identity.entry,
        kind=identity.kind,
        key=identity.key,
        user_id=identity.user_id,
        metadata=identity.metadata,
        state=transition.state,
        previous_state=transition.previous,
        at=record.config.wall_time(transition.at),
        exit_reason=transition.exit_reason,
        error=_whole_error(record) if is_terminal else transition.error,
        result=transition.result,
        post_mortem=record.post_mortem,
        peak_memory=None if peaks is None or not is_terminal else peaks.memory,
        processor_seconds=None if peaks is None or not is_terminal else peaks.processor_seconds,
    )


def refuse_message(record: ProcessRecord) -> trio.BrokenResourceError:
    """Say which process a message cannot reach any more, and why."""
    state = record.life.state
    text = f"process {record.process_id} ({record.identity.entry}) is {state}"
    return trio.BrokenResourceError(text if state.is_terminal else f"{text} and takes no messages any more")


def refuse_spawn(record: ProcessRecord, kind: type[SpawnError]) -> SpawnError:
    """Make the error of a kind that `spawn` raises for a process."""
    info, who = take_snapshot(record), f"{record.identity.entry} ({record.process_id})"
    if kind is StartupCancelledError:
        why = f" ({record.life.host_reason})" if record.life.host_reason else ""
        return StartupCancelledError(f"{who} was stopped before it was ready{why}", info=info)
    if kind is StartupTimeoutError:
        advice = "call process.ready() earlier, or give it a longer startup_timeout"
        if record.launched is None:
            advice = "its launch was still under way, so something stands still: the machine, or the fork server"
        return StartupTimeoutError(_explain(record, f"{who} timed out: {info.error}; {advice}"), info=info)
    if kind is LaunchError:
        return LaunchError(f"{who} could not be launched: {info.error}", info=info)
    why = _NEVER_READY if info.state is ProcessState.COMPLETED else info.error or "no error"
    text = _explain(record, f"{who} {info.state} before it was ready: {why}")
    return StartupFailedError(text, info=info, result=record.result)


def _whole_error(record: ProcessRecord) -> str | None:
    """Return the text of the post-mortem; the one line alone where that would be over a limit."""
    if record.post_mortem is None:
        return record.life.error
    text, most = str(record.post_mortem), record.config.limits.error_bytes
    return text if most is None or len(text.encode()) <= most else record.post_mortem.error


def _explain(record: ProcessRecord, text: str) -> str:
    """Put what else the post-mortem has below a text."""
    return text if record.post_mortem is None else str(attrs.evolve(record.post_mortem, error=text))
