"""How a snapshot follows from the events of a process: pure, and used at both ends of a connection."""

from __future__ import annotations

import attrs

from spindle_trio._model import LifecycleEvent, ProcessInfo, ProcessState


def info_of(event: LifecycleEvent) -> ProcessInfo:
    """Begin a snapshot with the first event heard of a process, which as a rule is `starting`."""
    first = ProcessInfo(
        process_id=event.process_id,
        entry=event.entry,
        kind=event.kind,
        state=event.state,
        started_at=event.at,
        key=event.key,
        user_id=event.user_id,
        metadata=event.metadata,
    )
    return info_after(first, event)


def info_after(info: ProcessInfo, event: LifecycleEvent) -> ProcessInfo:
    """Take one transition into a snapshot."""
    error = event.error if event.post_mortem is None else event.post_mortem.error
    changed = attrs.evolve(info, state=event.state, error=error, exit_reason=event.exit_reason)
    if event.state is ProcessState.RUNNING:
        return attrs.evolve(changed, ready_at=event.at, last_heartbeat_at=event.at)
    if event.state.is_terminal:
        return attrs.evolve(
            changed, ended_at=event.at, peak_memory=event.peak_memory, processor_seconds=event.processor_seconds
        )
    return changed
