"""Every name of the contract's table and of the design's signatures: it exists, is called like that, and works."""

from __future__ import annotations

import enum
import inspect
import math
from datetime import UTC, datetime, timedelta
from typing import get_args

import attrs
import pytest
import trio

import spindle_trio as spindle
import spindle_trio.child
from spindle_trio import wire

ENTRY_THAT_WAITS = """
async def run(process):
    process.ready()
    await trio.sleep_forever()
"""

STATES = {
    "STARTING": "starting",
    "RUNNING": "running",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
    "COMPLETED": "completed",
    "FAILED": "failed",
    "TIMED_OUT": "timed_out",
}

EXIT_REASONS = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "STOPPED": "stopped",
    "TIMED_OUT": "timed_out",
    "BACKEND_UNLOADED": "backend_unloaded",
    "REPLACED": "replaced",
}


@pytest.mark.parametrize(
    ("kind", "values"), [(spindle.ProcessState, STATES), (spindle.ExitReason, EXIT_REASONS)], ids=["state", "reason"]
)
def test_the_enumerations_have_the_names_and_wire_values_of_the_specification(kind, values):
    assert issubclass(kind, enum.StrEnum)
    assert {member.name: member.value for member in kind} == values
    assert [str(member) for member in kind] == list(values.values())


def test_is_terminal_tells_ends_from_live_states():
    live = {"starting", "running", "stopping"}
    assert {str(state) for state in spindle.ProcessState if not state.is_terminal} == live


@pytest.mark.parametrize(
    ("name", "stands_for"),
    [
        ("ProcessState", "BackendProcessStateDTO"),
        ("ExitReason", "BackendProcessExitReasonDTO"),
        ("SpawnOptions", "BackendProcessSpawnOptionsDTO"),
        ("ProcessFilter", "BackendProcessListOptionsDTO"),
        ("StopOptions", "BackendProcessStopOptionsDTO"),
        ("ProcessInfo", "BackendProcessInfoDTO"),
        ("LifecycleEvent", "BackendProcessLifecycleEventDTO"),
        ("ProcessHandle", "BackendProcessHandle"),
        ("BackendProcesses", "SpindleAPI.backendProcesses"),
        ("ProcessSpawn", "backend_process_spawn"),
        ("ProcessList", "backend_process_list"),
        ("ProcessGet", "backend_process_get"),
        ("ProcessUsage", "backend_process_usage"),
        ("ProcessStop", "backend_process_stop"),
        ("ProcessSend", "backend_process_send"),
        ("ProcessCall", "backend_process_call"),
        ("ProcessCallCancel", "backend_process_call_cancel"),
        ("ProcessCallCredit", "backend_process_call_credit"),
        ("ProcessCallIdle", "backend_process_call_idle"),
        ("ProcessCallItem", "backend_process_call_item"),
        ("ProcessLifecycle", "backend_process_lifecycle"),
    ],
)
def test_each_class_says_which_type_it_stands_for(name, stands_for):
    assert stands_for in (getattr(spindle, name).__doc__ or "")


@pytest.mark.parametrize("name", ["ProcessContext", "BlockingProcessContext"])
def test_both_contexts_say_that_they_stand_for_the_same_type(name):
    assert "SpindleBackendProcessContext" in (getattr(spindle_trio.child, name).__doc__ or "")


@pytest.mark.parametrize("name", spindle.__all__)
def test_every_public_name_can_be_had(name):
    assert getattr(spindle, name) is not None
    assert name in dir(spindle)


def test_the_two_unions_have_the_members_of_the_table():
    assert set(get_args(spindle.WorkerToHost)) == {
        spindle.ProcessSpawn,
        spindle.ProcessList,
        spindle.ProcessGet,
        spindle.ProcessStop,
        spindle.ProcessReleaseKey,
        spindle.ProcessUsage,
        spindle.ProcessSend,
        spindle.ProcessCall,
        spindle.ProcessCallCancel,
        spindle.ProcessCallCredit,
        spindle.ProcessCallIdle,
    }
    assert set(get_args(spindle.HostToWorker)) == {
        spindle.ProcessLifecycle,
        spindle.ProcessMessage,
        spindle.ProcessSendFailed,
        spindle.ProcessCallItem,
        spindle.Response,
    }


def outline(function: object) -> str:
    """Write a signature without its annotations, in the design's shorthand."""
    signature = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    shown = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return shown.replace("15.0", "15").replace("OMITTED", "...")


SPAWN_OPTIONS = (
    "(entry, *, kind=None, key=None, payload=..., metadata=None, user_id=None, startup_timeout=15,"
    " heartbeat_timeout=15, replace_existing=False, grace_period=None, replace_grace=None, keep_key=False,"
    " successor_of=None, environment=None, folder=None, arguments=(), resource_limits=None,"
    " sandbox=None)"
)

SIGNATURES = [
    (spindle.Host.open_worker, "(identifier, *, root=None, user_id=None)"),
    (spindle.Host.serve_worker, "(channel, identifier, *, root=None, user_id=None)"),
    (spindle.Host.kill, "()"),
    (spindle.Host.statistics, "()"),
    (spindle.Host.recent, "()"),
    (spindle.BackendProcesses.spawn, SPAWN_OPTIONS),
    (spindle.BackendProcesses.open, SPAWN_OPTIONS),
    (spindle.BackendProcesses.list, "(*, user_id=None, kind=None, key=None, state=None)"),
    (spindle.BackendProcesses.get, "(process_id)"),
    (spindle.BackendProcesses.stop, "(process_id, *, user_id=None, reason=None, grace=None, keep_key=False)"),
    (spindle.BackendProcesses.release_key, "(process_id, *, user_id=None)"),
    (spindle.BackendProcesses.send, "(process_id, payload, *, user_id=None)"),
    (spindle.BackendProcesses.lifecycle_events, "()"),
    (spindle.BackendProcesses.messages, "()"),
    (spindle.BackendProcesses.on_lifecycle, "(handler)"),
    (spindle.BackendProcesses.on_message, "(handler)"),
    (spindle.ProcessHandle.send, "(payload)"),
    (spindle.ProcessHandle.send_nowait, "(payload)"),
    (spindle.ProcessHandle.stop, "(reason=None, *, grace=None, keep_key=False)"),
    (spindle.ProcessHandle.kill, "()"),
    (spindle.ProcessHandle.refresh, "()"),
    (spindle.ProcessHandle.messages, "()"),
    (spindle.ProcessHandle.wait_ended, "()"),
    (spindle.ProcessHandle.statistics, "()"),
    (spindle_trio.child.ProcessContext.complete, "(result=None)"),
    (spindle_trio.child.ProcessContext.fail, "(error)"),
    (spindle_trio.child.ProcessContext.send, "(payload)"),
    (spindle_trio.child.BlockingProcessContext.complete, "(result=None)"),
    (spindle_trio.child.BlockingProcessContext.fail, "(error)"),
    (spindle_trio.child.BlockingProcessContext.send, "(payload)"),
    (spindle_trio.child.BlockingProcessContext.receive, "(timeout=None)"),
    (spindle_trio.child.BlockingProcessContext.sleep, "(seconds)"),
]


@pytest.mark.parametrize(("function", "shown"), SIGNATURES, ids=lambda value: getattr(value, "__qualname__", ""))
def test_signatures_are_those_of_the_design(function, shown):
    assert outline(function) == shown


def test_the_signature_of_open_host_is_that_of_the_design():
    parameters = inspect.signature(spindle.open_host).parameters
    assert list(parameters) == [
        "launcher",
        "grace_period",
        "max_processes",
        "limits",
        "environment",
        "new_process_id",
        "wall_clock",
        "require_containment",
        "replace_grace",
        "allow",
        "cancel_grace",
        "resource_limits",
        "require_limits",
        "sandbox",
        "require_sandbox",
        "commands",
    ]
    assert parameters["launcher"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for name, p in parameters.items() if name != "launcher")
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert (defaults["launcher"], defaults["grace_period"], defaults["max_processes"]) == (None, 5.0, 16)
    assert (defaults["limits"], defaults["environment"]) == (spindle.Limits(), None)


@pytest.mark.parametrize("name", ["list", "get", "stop", "send", "spawn", "release_key"])
def test_what_asks_the_host_is_async(name):
    assert inspect.iscoroutinefunction(getattr(spindle.BackendProcesses, name))


@pytest.mark.parametrize("name", ["send", "stop", "kill", "refresh", "wait_ended"])
def test_what_waits_on_a_handle_is_async(name):
    assert inspect.iscoroutinefunction(getattr(spindle.ProcessHandle, name))


FACTS = "process_id entry kind key payload has_payload metadata user_id heartbeat_timeout"
CONTROLS = "ready heartbeat complete fail send on_message on_stop"


@pytest.mark.parametrize(
    ("name", "own", "lacks"),
    [
        ("ProcessContext", "send_nowait messages wait_stop beat_while_running", "receive sleep stop_requested"),
        ("BlockingProcessContext", "receive sleep stop_requested", "messages wait_stop"),
    ],
)
def test_a_context_has_the_facts_and_controls_of_the_table(name, own, lacks):
    context = getattr(spindle_trio.child, name)
    assert [each for each in f"{FACTS} {CONTROLS} {own}".split() if not hasattr(context, each)] == []
    assert [each for each in lacks.split() if hasattr(context, each)] == []
    assert [each for each in FACTS.split() if not isinstance(getattr(context, each), property)] == []


ERRORS = {
    "SpindleError": (Exception,),
    "SpawnRefusedError": (spindle.SpindleError,),
    "EntryError": (spindle.SpawnRefusedError,),
    "UserRequiredError": (spindle.SpawnRefusedError,),
    "DuplicateKeyError": (spindle.SpawnRefusedError,),
    "KeyLostError": (spindle.SpawnRefusedError,),
    "ProcessLimitError": (spindle.SpawnRefusedError,),
    "ResourceLimitError": (spindle.SpawnRefusedError, ValueError),
    "SandboxError": (spindle.SpawnRefusedError,),
    "SpawnError": (spindle.SpindleError,),
    "LaunchError": (spindle.SpawnError,),
    "StartupTimeoutError": (spindle.SpawnError, TimeoutError),
    "StartupFailedError": (spindle.SpawnError,),
    "StartupCancelledError": (spindle.SpawnError,),
    "CallError": (spindle.SpindleError,),
    "CallFailedError": (spindle.CallError,),
    "UnknownMethodError": (spindle.CallError,),
    "CallTimeoutError": (spindle.CallError, TimeoutError),
    "ProcessLostError": (spindle.CallError,),
    "PoolBrokenError": (spindle.CallError,),
    "ServiceGaveUpError": (spindle.SpindleError,),
    "ProcessAccessError": (spindle.SpindleError,),
    "PayloadError": (spindle.SpindleError, ValueError),
    "LaggedError": (spindle.SpindleError,),
    "ProtocolError": (spindle.SpindleError,),
    "LocalProtocolError": (spindle.ProtocolError,),
    "PeerProtocolError": (spindle.ProtocolError,),
}


def test_the_errors_are_exactly_those_of_the_tree():
    public = {name for name in spindle.__all__ if name.endswith("Error")}
    assert public == set(ERRORS)


@pytest.mark.parametrize(("name", "bases"), ERRORS.items(), ids=list(ERRORS))
def test_each_error_has_its_place_in_the_tree(name, bases):
    error = getattr(spindle, name)
    assert error.__bases__ == bases
    assert error.__doc__


NOW = datetime(2026, 3, 4, 5, 6, 7, 89_000, tzinfo=UTC)

INFO = spindle.ProcessInfo(
    process_id="p-1",
    entry="dist/entry.py",
    kind="index",
    state=spindle.ProcessState.TIMED_OUT,
    started_at=NOW,
    key="chat:42",
    user_id="ada",
    metadata={"a": [1, None]},
    ready_at=NOW + timedelta(milliseconds=1),
    last_heartbeat_at=NOW + timedelta(milliseconds=2),
    ended_at=NOW + timedelta(milliseconds=3),
    exit_reason=spindle.ExitReason.TIMED_OUT,
    error="no heartbeat",
)


@pytest.mark.parametrize("name", ["LaunchError", "StartupTimeoutError", "StartupFailedError", "StartupCancelledError"])
def test_errors_of_a_launched_spawn_carry_the_info_and_one_text(name):
    """`TimeoutError` is an `OSError`, which would give a second positional argument another meaning."""
    error = getattr(spindle, name)("what happened", info=INFO)
    assert error.info is INFO
    assert error.args == ("what happened",)
    assert str(error) == "what happened"


def test_a_startup_timeout_is_caught_as_a_timeout():
    with pytest.raises(TimeoutError) as caught:
        raise spindle.StartupTimeoutError("late", info=INFO)
    assert caught.value.errno is None


def test_refusals_carry_what_they_speak_of():
    assert spindle.DuplicateKeyError("taken", INFO).existing is INFO
    assert spindle.ProcessLimitError("full", 16).limit == 16
    assert spindle.LaggedError(3).missed == 3
    assert "3" in str(spindle.LaggedError(3))


VALUES = [
    INFO,
    spindle.ProcessInfo("p", "e.py", "e.py", spindle.ProcessState.STARTING, NOW),
    spindle.LifecycleEvent(
        process_id="p-1",
        entry="dist/entry.py",
        kind="index",
        state=spindle.ProcessState.COMPLETED,
        at=NOW,
        previous_state=spindle.ProcessState.STOPPING,
        key="k",
        user_id="ada",
        metadata={},
        exit_reason=spindle.ExitReason.COMPLETED,
        result={"n": 1.5},
    ),
    spindle.SpawnOptions("e.py"),
    spindle.SpawnOptions(
        "e.py",
        kind="k",
        key="q",
        payload=None,
        metadata={"x": "ü"},
        user_id="ada",
        startup_timeout=1.25,
        heartbeat_timeout=math.inf,
        replace_existing=True,
    ),
    spindle.ProcessFilter(),
    spindle.ProcessFilter(user_id="ada", kind="k", key="q", state=spindle.ProcessState.RUNNING),
    spindle.StopOptions(),
    spindle.StopOptions(user_id="ada", reason="enough"),
    spindle.ProcessSpawn("r", spindle.SpawnOptions("e.py", payload=[1])),
    spindle.ProcessList("r", spindle.ProcessFilter(kind="k")),
    spindle.ProcessGet("r", "p-1"),
    spindle.ProcessUsage("r", "p-1"),
    spindle.ProcessStop("r", "p-1", spindle.StopOptions(reason="why")),
    spindle.ProcessSend("p-1", {"a": None}, "ada"),
    spindle.ProcessLifecycle(spindle.LifecycleEvent("p", "e", "e", spindle.ProcessState.STARTING, NOW)),
    spindle.ProcessMessage("p-1", [True], "ada"),
    spindle.Response("r", result=[1]),
    spindle.Response("r", error="no", error_type="DuplicateKeyError", info=INFO),
    spindle.ProcessCall("r", "p-1", "square", {"n": 3}, 2.0, "kill", "ada"),
    spindle.ProcessCall("r", "p-1", "index", window=16),
    spindle.ProcessCallCancel("r"),
    spindle.ProcessCallCredit("r", 8),
    spindle.ProcessCallIdle("r", "p-1"),
    spindle.ProcessCallItem("r", None),
    spindle.Response("r", error="no", failure=spindle.CallFailure("ValueError", "no", "Traceback")),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_survives_the_round_trip_through_its_wire_form(value):
    assert wire.from_json(wire.to_json(value), type(value)) == value


def test_the_wire_says_no_watchdog_as_zero_and_times_in_three_decimals():
    options = wire.to_json(spindle.SpawnOptions("e.py", heartbeat_timeout=math.inf, startup_timeout=2.5))
    assert (options["heartbeatTimeoutMs"], options["startupTimeoutMs"]) == (0, 2500)
    assert wire.to_json(INFO)["startedAt"] == "2026-03-04T05:06:07.089Z"


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_every_value_is_frozen(value):
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(value, attrs.fields(type(value))[0].name, "other")


async def test_times_are_aware_and_in_utc(world, world_clock):
    name = world.entry(ENTRY_THAT_WAITS)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(name)
        await handle.stop()
    info = handle.info
    for moment in (info.started_at, info.ready_at, info.last_heartbeat_at, info.ended_at, world.events[0].at):
        assert moment is not None
        assert moment.tzinfo is UTC


async def test_the_context_shows_the_facts_of_its_process(world, world_clock):
    name = world.entry("""
    async def run(process):
        process.ready()
        names = "process_id entry kind key payload has_payload metadata user_id heartbeat_timeout".split()
        return {name: getattr(process, name) for name in names}
    """)
    async with world.worker() as worker:
        handle = await worker.backend_processes.spawn(
            name, kind="k", key="q", payload={"a": [1, "ü", None]}, metadata={"m": 1}, heartbeat_timeout=0.75
        )
        await handle.wait_ended()
        assert handle.result == {
            "process_id": handle.process_id,
            "entry": name,
            "kind": "k",
            "key": "q",
            "payload": {"a": [1, "ü", None]},
            "has_payload": True,
            "metadata": {"m": 1},
            "user_id": "ada",
            "heartbeat_timeout": 0.75,
        }


async def test_lifecycle_and_messages_come_by_channel_and_by_handler(world, world_clock):
    """The two forms of `onLifecycle` and `onMessage`, with the same values in both."""
    name = world.entry("""
    async def run(process):
        process.ready()
        await process.send({"n": 1})
        return 7
    """)
    heard: list[object] = []
    async with world.quiet_worker() as worker:
        processes = worker.backend_processes
        events, messages = processes.lifecycle_events(), processes.messages()
        assert isinstance(events, trio.abc.ReceiveChannel)
        assert isinstance(messages, trio.abc.ReceiveChannel)
        unsubscribe = processes.on_message(heard.append)
        handle = await processes.spawn(name)
        info = await handle.wait_ended()
        assert [await events.receive() for _ in range(3)] == world.events
        assert await messages.receive() == heard[0] == spindle.ProcessMessage(info.process_id, {"n": 1}, "ada")
        unsubscribe()
        unsubscribe()
    assert world.states() == ["starting", "running", "completed"]
    assert [event.previous_state for event in world.events] == [None, "starting", "running"]
