"""Pools of functions, on real processes: what arrives, what is refused, and what becomes of bad functions."""

from __future__ import annotations

import functools
import math
import os
import pickle
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import spindle_trio as spindle
from support import functions
from support.leftovers import own_children


@pytest.fixture
async def pool():
    with trio.fail_after(60):
        async with spindle.open_function_pool(size=2) as pool:
            yield pool
    assert not own_children()


async def test_any_importable_function_is_run_with_any_picklable_values(pool):
    assert await pool.run_sync(functions.add, 1) == 2
    assert await pool.run_sync(functions.add, 1.5, 2, third=3) == 6.5
    assert await pool.run_sync(functions.Holder.double, "ab") == "abab"
    assert await pool.run_sync(math.factorial, 20) == math.factorial(20)
    value = {("a", 1): [{1, 2}, b"bytes", None, 2**100, Path("x"), slice(3)]}
    assert await pool.run_sync(functions.same, value) == value
    assert "idle" in repr(pool)


async def test_processes_have_the_callers_path_folder_and_environment(pool, monkeypatch):
    pid, folder, path = await pool.run_sync(functions.describe)
    assert pid != os.getpid()
    assert folder == str(Path.cwd())
    assert path == [str(Path(step).absolute()) for step in sys.path]
    assert await pool.run_sync(os.getenv, "PYTEST_CURRENT_TEST")


async def test_buffers_travel_beside_the_pickle_and_arrive_read_only(pool):
    data = bytearray(os.urandom(3_000_000))
    back = await pool.run_sync(functions.same, [pickle.PickleBuffer(data), data[:10]])
    assert back[0] == data
    assert memoryview(back[0]).nbytes == len(data)
    assert back[1] == data[:10]
    assert await pool.run_sync(len, b"x" * 20_000_000) == 20_000_000


async def test_what_no_process_can_import_is_refused_and_the_error_says_what_to_do(pool):
    def inner():
        """Defined here."""

    main = functools.partial(print)
    imposter = type(functions.add)(functions.add.__code__, {}, "add")
    imposter.__module__, imposter.__qualname__ = "support.functions", "add"
    script = type(functions.add)(functions.add.__code__, {}, "add")
    script.__module__ = "__main__"
    for function, says in [
        (lambda: None, "is a lambda, and no process can find it; define it by def at the top of its module"),
        (functions.UNNAMED, "is a lambda"),
        (inner, "is defined inside another function"),
        (script, "is defined in the main program, which no process imports; move it to a module of its own"),
        (functions.later, r"is async, and run_sync runs plain functions; .* trio\.run"),
        (functions.Holder().twice, "is a method of an object; pass a function, and the object as its argument"),
        (main, "has none; pass the function itself, and its arguments after it"),
        (functions, "takes a function"),
        (None, "takes a function"),
        (imposter, "support.functions.add is not this function"),
    ]:
        with pytest.raises(TypeError, match=says):
            await pool.run_sync(function)
    with pytest.raises(TypeError, match=r"an argument of support\.functions\.same cannot be pickled"):
        await pool.run_sync(functions.same, lambda: None)
    with pytest.raises(ValueError, match="timeout"):
        await pool.run_sync(functions.add, 1, timeout=-1)
    assert await pool.run_sync(functions.add, 1) == 2


async def test_another_thread_may_not_use_the_pool(pool):
    async def elsewhere():
        with pytest.raises(
            RuntimeError, match=r"run_sync\(\) .* wrong thread; .* trio\.from_thread\.run\(….run_sync, …\)"
        ):
            await pool.run_sync(functions.add, 1)

    await trio.to_thread.run_sync(trio.run, elsewhere)
    assert (pool.statistics().starting, pool.statistics().waiting) == (0, 0)
    assert await trio.to_thread.run_sync(trio.from_thread.run, pool.run_sync, functions.add, 1) == 2


async def test_what_a_function_raises_is_raised_with_its_traceback_as_a_note(pool):
    with pytest.raises(KeyError) as caught:
        await pool.run_sync(functions.raise_key_error, "k")
    assert caught.value.args == ("k",)
    (note,) = caught.value.__notes__
    assert note.startswith("In the process of the pool:\nKeyError: 'k'\nTraceback")
    assert "return {}[key]" in note


async def test_an_exception_or_result_that_cannot_be_pickled_is_described(pool):
    with pytest.raises(spindle.CallFailedError, match="one and two") as caught:
        await pool.run_sync(functions.raise_two)
    assert caught.value.error_type.endswith("TwoArguments")
    assert "raise TwoArguments" in (caught.value.traceback or "")
    with pytest.raises(spindle.CallFailedError, match="which cannot be read here: not here") as caught:
        await pool.run_sync(functions.raise_read_here)
    assert caught.value.error_type.endswith("ReadHere")
    with pytest.raises(spindle.CallFailedError, match=r"the result, of type builtins\.function, cannot be pickled"):
        await pool.run_sync(functions.return_lambda)
    with pytest.raises(LookupError, match="not here"):
        await pool.run_sync(functions.return_unreadable)
    assert await pool.run_sync(functions.add, 1) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "argument", "says"),
    [
        (functions.exit_at_once, 7, "code 7"),
        (functions.crash, None, "SIGSEGV"),
        (functions.leave, 3, "code 3"),
    ],
    ids=["_exit", "SIGSEGV", "sys.exit"],
)
async def test_a_function_that_ends_its_process_loses_its_own_call_alone(pool, function, argument, says):
    with pytest.raises(spindle.ProcessLostError, match=says) as caught:
        await pool.run_sync(function, *([] if argument is None else [argument]))
    assert caught.value.handed_over
    assert await pool.run_sync(functions.add, 1) == 2


async def test_a_function_that_hangs_is_killed_with_what_it_has_started(pool):
    assert await pool.run_sync(functions.add, 0) == 1
    with pytest.raises(spindle.CallTimeoutError, match=r"^'support\.functions\.hang' was not .* within 0\.1 s") as late:
        await pool.run_sync(functions.hang, timeout=0.1)
    assert (late.value.method, late.value.entry) == ("support.functions.hang", "function_pool.py")
    with trio.move_on_after(0.1):
        await pool.run_sync(functions.spawn_and_hang)
    assert [await pool.run_sync(functions.add, number) for number in range(4)] == [1, 2, 3, 4]


async def test_arguments_and_results_are_bounded():
    async with spindle.open_function_pool(size=1, max_bytes=100_000) as pool:
        with pytest.raises(spindle.PayloadError, match="more than 100000 bytes"):
            await pool.run_sync(len, b"x" * 100_000)
        with pytest.raises(spindle.CallFailedError, match="more than 100000 bytes"):
            await pool.run_sync(bytes, 100_000)
        assert await pool.run_sync(len, b"x" * 99_000) == 99_000


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"max_bytes": 0}, {"startup_timeout": 0}, {"max_calls": 0}, {"max_bytes": 1.5}], ids=str
)
def test_an_argument_out_of_range_is_refused_by_its_own_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        spindle.open_function_pool(**options)


@pytest.mark.slow
async def test_leaving_the_block_ends_all_and_waiting_calls():
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            refused = []

            async def call():
                try:
                    await pool.run_sync(functions.hang)
                except (trio.ClosedResourceError, spindle.ProcessLostError) as error:
                    refused.append(type(error).__name__)

            async with spindle.open_function_pool(size=1) as pool:
                await pool.run_sync(functions.add, 1)
                nursery.start_soon(call)
                nursery.start_soon(call)
                await wait_all_tasks_blocked()  # the first one has left this program
                assert (pool.statistics().busy, pool.statistics().waiting) == (1, 1)
        assert sorted(refused) == ["ClosedResourceError", "ProcessLostError"]
        with pytest.raises(trio.ClosedResourceError):
            await pool.run_sync(functions.add, 1)
    assert not own_children()


async def test_an_error_of_the_block_leaves_it_bare():
    with pytest.raises(KeyError, match="mine"):
        async with spindle.open_function_pool(size=1) as pool:
            assert await pool.run_sync(functions.add, 1) == 2
            raise KeyError("mine")


def test_only_this_room_imports_pickle():
    package = Path(spindle.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(line.strip().startswith(("import pickle", "from pickle")) for line in path.read_text().splitlines())
    }
    assert found == {"_functions/_pickled.py"}
