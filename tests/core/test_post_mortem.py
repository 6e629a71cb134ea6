"""The value that explains an end, and how it is put together from what is known."""

from __future__ import annotations

import math

import attrs
import pytest

from spindle_trio._model import ExitReason, PostMortem
from spindle_trio._supervision._lifecycle import Lifecycle
from spindle_trio._supervision._post_mortems import (
    STDERR_CHARACTERS,
    STDERR_LINES,
    TAIL_CHARACTERS,
    LastWords,
    find_out,
    one_line,
)
from spindle_trio._supervision._state_table import Input
from spindle_trio.abc import ExitStatus, LaunchedProcess

WHOLE = PostMortem(
    "no heartbeat for 2 s; it was stopped by a signal",
    exit_status="killed by SIGKILL, sent by its host",
    traceback="Traceback (most recent call last):\n  File 'a.py'\nValueError: a",
    stderr="one\n\ntwo\n",
    since_heartbeat=2.004,
    stacks="Thread 1:\n  File 'a.py'",
)


def test_as_text_it_is_a_few_titled_blocks() -> None:
    assert str(WHOLE).splitlines() == [
        "no heartbeat for 2 s; it was stopped by a signal",
        "  exit status: killed by SIGKILL, sent by its host",
        "  last heartbeat: 2.004 s before that",
        "  what to do: call process.heartbeat() more often, or process.beat_while_running() in an async entry; "
        "handlers in `calls` have no process: write run(process) with process.on_call, or spawn it with a longer "
        "heartbeat_timeout",
        "  traceback:",
        "    Traceback (most recent call last):",
        "      File 'a.py'",
        "    ValueError: a",
        "  last lines of stderr:",
        "    one",
        "",
        "    two",
        "  stacks of all threads:",
        "    Thread 1:",
        "      File 'a.py'",
    ]


def test_what_is_not_known_has_no_block() -> None:
    assert str(PostMortem("no disk")) == "no disk"
    assert str(PostMortem("no disk", since_heartbeat=0.0)) == "no disk\n  last heartbeat: 0 s before that"


def test_its_repr_is_a_status_line() -> None:
    assert repr(attrs.evolve(WHOLE, error="one\ntwo")) == "<PostMortem 'one' killed by SIGKILL, sent by its host>"
    assert repr(PostMortem("no disk")) == "<PostMortem 'no disk' no exit status>"


def test_it_is_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        WHOLE.error = "another"  # type: ignore[misc]  # the point of the test


class Corpse(LaunchedProcess):
    """A process that has ended, and what it has left."""

    def __init__(self, stderr: str = "", stacks: str | None = None, remark: str | None = None) -> None:
        self.heartbeat = -math.inf
        self._stderr, self._stacks, self._remark = stderr, stacks, remark

    def stderr_tail(self) -> str:
        return self._stderr

    def stacks(self) -> str | None:
        return self._stacks

    def remark(self) -> str | None:
        return self._remark

    def last_heartbeat(self) -> float:
        return self.heartbeat

    def request_stop(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError

    def has_exited(self) -> bool:
        raise NotImplementedError

    async def wait(self) -> ExitStatus:
        raise NotImplementedError


def life_of(*inputs: Input, text: str | None = None, at: float = 7.0) -> Lifecycle:
    """Become ready at 0, and hear the rest at one time, the last with a text."""
    life = Lifecycle(startup_timeout=10, heartbeat_timeout=5, grace_period=3, now=0)
    life.feed(Input.READY, 0)
    for said in inputs:
        life.feed(said, at, text=text if said is inputs[-1] else None)
    return life


def test_an_end_that_was_asked_for_has_none() -> None:
    assert find_out(life_of(Input.COMPLETE), Corpse("noise"), LastWords(), 0) is None
    assert find_out(life_of(Input.STOP, Input.EXIT), Corpse("noise"), LastWords(), 0) is None


def test_a_completed_process_whose_messages_are_lost_has_an_error_and_none() -> None:
    life = life_of(Input.COMPLETE)
    assert find_out(life, Corpse(), LastWords(), 2) is None
    assert life.error == "2 of its messages never arrived"


def test_a_process_that_its_host_wanted_gone_has_one_only_if_that_went_wrong() -> None:
    life = life_of(Input.COMPLETE)
    life.host_reason = ExitReason.REPLACED
    assert find_out(life, Corpse(), LastWords(), 0) is None
    life = life_of(Input.STOP, Input.GRACE_DEADLINE)
    life.host_reason = ExitReason.REPLACED
    found = find_out(life, Corpse(), LastWords(), 0)
    assert found is not None
    assert found.error == life.error == "did not end within 3 s of the stop, and was killed"


def test_what_was_never_launched_has_its_error_alone() -> None:
    life = Lifecycle(startup_timeout=1, heartbeat_timeout=1, grace_period=1, now=0)
    life.feed(Input.LAUNCH_FAILED, 0, text="OSError: no")
    assert find_out(life, None, LastWords(), 0) == PostMortem("OSError: no")


def test_a_timeout_shows_remark_stacks_and_the_age_of_the_last_heartbeat() -> None:
    life = life_of(Input.HEARTBEAT_DEADLINE, at=7.0004)
    words = LastWords()
    words.note_exit(ExitStatus(signal=9), life)
    corpse = Corpse("a\nb\n", "Thread 1", "it was stopped by a signal")
    corpse.heartbeat = 1.5
    assert find_out(life, corpse, words, 0) == PostMortem(
        "no heartbeat for 5 s; it was stopped by a signal",
        exit_status="killed by SIGKILL, sent by its host",
        stderr="a\nb",
        since_heartbeat=5.5,
        stacks="Thread 1",
    )


def test_a_heartbeat_after_the_end_was_settled_is_none_to_wait_for() -> None:
    corpse = Corpse()
    corpse.heartbeat = math.inf
    found = find_out(life_of(Input.HEARTBEAT_DEADLINE), corpse, LastWords(), 0)
    assert found is not None
    assert found.since_heartbeat == 0


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (ExitStatus(code=3), "exited with code 3 without complete() or fail()"),
        (ExitStatus(), "ended with an unknown status without complete() or fail()"),
        (ExitStatus(signal=11), "killed by SIGSEGV without complete() or fail()"),
        (ExitStatus(signal=9, out_of_memory=True), "killed by SIGKILL: out of memory, without complete() or fail()"),
        (
            ExitStatus(signal=9),
            "killed by SIGKILL, sender unknown (perhaps out of memory), without complete() or fail()",
        ),
    ],
)
def test_an_exit_without_a_word_shows_the_last_of_stderr_in_one_line(status: ExitStatus, text: str) -> None:
    words = LastWords()
    before = life_of()
    words.note_exit(status, before)
    life = life_of(Input.EXIT, text=words.judge_exit(status, before, takes_calls=False))
    found = find_out(life, Corpse("\n  on fire \r\n\nwater\n"), words, 1)
    assert found is not None
    assert found.error == life.error
    assert life.error == f"{text}; the last it wrote to stderr: on fire | water; 1 of its messages never arrived"
    assert found.exit_status == str(status)


def test_an_exit_while_it_was_asked_to_stop_is_no_error() -> None:
    assert LastWords().judge_exit(ExitStatus(code=3), life_of(Input.STOP), takes_calls=False) is None


def test_the_first_exit_status_counts() -> None:
    """A process that announces its exit is killed with its tree, and that is no news."""
    words, life = LastWords(), life_of()
    words.note_exit(ExitStatus(code=3), life)
    words.note_exit(ExitStatus(signal=9), life)
    assert words.exit_status == "exited with code 3"


def test_what_it_shows_of_stderr_is_bounded() -> None:
    words = LastWords()
    status = ExitStatus(code=1)
    life = life_of(Input.EXIT, text=words.judge_exit(status, life_of(), takes_calls=False))
    found = find_out(life, Corpse("\n".join(f"line {number}" for number in range(10_000))), words, 0)
    assert found is not None
    assert len(found.stderr.splitlines()) == STDERR_LINES
    assert found.stderr.endswith("line 9999")
    head, _, tail = found.error.partition("; the last it wrote to stderr: …")
    assert head == "exited with code 1 without complete() or fail()"
    assert len(tail) == TAIL_CHARACTERS
    assert tail.endswith("| line 9998 | line 9999")
    found = find_out(life_of(Input.FAIL, text="no"), Corpse("x" * 100_000), LastWords(), 0)
    assert found is not None
    assert len(found.stderr) == STDERR_CHARACTERS


def test_a_failure_without_a_text_still_has_an_error() -> None:
    life = life_of(Input.FAIL, text="")
    found = find_out(life, Corpse(), LastWords(), 0)
    assert found is not None
    assert found.error == "it gave no reason"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_one_line_is_one(line_end: str) -> None:
    assert one_line(f"  a {line_end}{line_end} b{line_end}") == "a | b"


def test_a_process_that_took_calls_is_not_reproached_with_what_its_author_may_not_know() -> None:
    said = LastWords().judge_exit(ExitStatus(code=3), life_of(Input.READY), takes_calls=True)
    assert said == "exited with code 3 while it took calls"
