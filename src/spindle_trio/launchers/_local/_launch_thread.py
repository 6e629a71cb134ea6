"""The one thread that starts processes, and the threads that reap processes which survived SIGKILL.

A parent-death signal follows the *thread* that forked: when that thread ends, the kernel takes the child's parent for
dead. Trio's worker threads retire after ten idle seconds, and the thread that runs Trio may end as well. So one thread,
which lives as long as the program, starts all processes that carry such a signal. It serves every launcher of this
interpreter, is a daemon, and only starts processes, one after another.

A result comes back through `trio.lowlevel.TrioToken`. For `PATIENCE` seconds nothing cancels the task that waits for
it, since a new process must have an owner at every moment: the thread until it has answered, then the waiting task, and
the thread again if that task has given up or its run has ended.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

import outcome
import trio

__all__ = ["PATIENCE", "reap_in_background", "run_in_launch_thread"]

PATIENCE: Final = 1.5
"""Seconds that an immediate step may take before it is left to a thread (abandonment time)."""

_T = TypeVar("_T")

_logger = logging.getLogger("spindle_trio.launchers")


async def run_in_launch_thread(work: Callable[[], _T], dispose: Callable[[_T], None]) -> _T:
    """Run something on the launch thread, and return or raise its outcome.

    If cancelled before the thread has answered, it still waits for the answer, at most `PATIENCE` seconds, and returns
    it: the caller meets the cancellation at its next checkpoint, and can clean up.

    Args:
        work: called on the thread.
        dispose: called with a result that nothing waits for any more; on the thread, or in the Trio run. May block.

    Raises:
        trio.Cancelled: the thread did not answer in `PATIENCE` seconds; the result will be disposed of.
    """
    job = _Job(work, dispose)
    _ensure_thread().put(job.run)
    try:
        await job.answered.wait()
    except trio.Cancelled:  # noqa: ASYNC103  # the caller meets it at its next checkpoint
        try:
            with trio.CancelScope(deadline=trio.current_time() + PATIENCE, shield=True):
                await job.answered.wait()
        finally:
            job.is_given_up = job.answer is None
        if job.is_given_up:
            raise
    except KeyboardInterrupt:
        job.is_given_up = True
        raise
    assert job.answer is not None  # it is set before the event
    return job.answer.unwrap()


class _Job(Generic[_T]):
    """One piece of work on its way through the thread."""

    def __init__(self, work: Callable[[], _T], dispose: Callable[[_T], None]) -> None:
        self.answered = trio.Event()
        self.answer: outcome.Outcome[_T] | None = None
        self.is_given_up = False
        self._work = work
        self._dispose = dispose
        self._token = trio.lowlevel.current_trio_token()

    def run(self) -> None:
        """Do the work; runs on the launch thread."""
        answer = outcome.capture(self._work)
        try:
            self._token.run_sync_soon(self._deliver, answer)
        except trio.RunFinishedError:
            self._throw_away(answer)

    def _deliver(self, answer: outcome.Outcome[_T]) -> None:
        """Hand the answer over; runs in the Trio run."""
        if self.is_given_up:
            # Disposing may block, and nothing in the Trio run may.
            _ensure_thread().put(lambda: self._throw_away(answer))
        else:
            self.answer = answer
            self.answered.set()

    def _throw_away(self, answer: outcome.Outcome[_T]) -> None:
        if isinstance(answer, outcome.Value):
            self._dispose(answer.value)


_lock = threading.Lock()
_jobs: queue.SimpleQueue[Callable[[], None]] | None = None


def _ensure_thread() -> queue.SimpleQueue[Callable[[], None]]:
    """Start the thread unless it runs, and return its queue."""
    global _jobs  # noqa: PLW0603  # one thread an interpreter is the point
    with _lock:
        if _jobs is None:
            jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(jobs,), name="spindle-trio launch thread", daemon=True).start()
            _jobs = jobs  # only now: the system may have refused a thread, and allow one later
        return _jobs


def _serve(jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        job = jobs.get()
        try:
            job()
        except BaseException:  # noqa: ASYNC103  # no Trio runs in this thread
            _logger.exception("a job of the launch thread failed")
        del job  # it may hold a process, and the next job may be hours away


def _forget_thread() -> None:
    """Have a forked copy of this program start a new thread: threads do not survive a fork."""
    global _jobs, _lock  # noqa: PLW0603
    _jobs = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # not everywhere; a launcher says in its `start` where it cannot run
    os.register_at_fork(after_in_child=_forget_thread)


def reap_in_background(process_id: str, pid: int, pidfd: int) -> None:
    """Reap a process that has withstood its kill, whenever it ends, and then close its pidfd.

    Args:
        process_id: the host's id, for the log record.
        pid: the operating system's pid.
        pidfd: this function owns it from now on.
    """
    _logger.error("process %s (pid %d) survived SIGKILL: abandoned, to be reaped when it ends", process_id, pid)
    reaper = threading.Thread(
        target=_reap, args=(process_id, pid, pidfd), name=f"spindle-trio reaper of {pid}", daemon=True
    )
    try:
        reaper.start()
    except RuntimeError:  # the system has none left
        _logger.exception("process %s (pid %d) remains a zombie until this program ends", process_id, pid)
        os.close(pidfd)


def _reap(process_id: str, pid: int, pidfd: int) -> None:
    try:
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:
        pass  # somebody else has reaped it
    finally:
        os.close(pidfd)
    _logger.warning("the abandoned process %s (pid %d) has ended", process_id, pid)
