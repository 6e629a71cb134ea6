"""The wire form of the worker protocol: what is written, what is read, and what is refused with which words."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spindle_trio import _errors as errors
from spindle_trio import wire
from spindle_trio._errors import PeerProtocolError, SpindleError
from spindle_trio._model import (
    MOST_WINDOW,
    OMITTED,
    CallFailure,
    ExitReason,
    HostToWorker,
    JsonValue,
    LifecycleEvent,
    PostMortem,
    ProcessCall,
    ProcessCallCancel,
    ProcessCallCredit,
    ProcessCallIdle,
    ProcessCallItem,
    ProcessFilter,
    ProcessGet,
    ProcessInfo,
    ProcessLifecycle,
    ProcessList,
    ProcessMessage,
    ProcessReleaseKey,
    ProcessSend,
    ProcessSpawn,
    ProcessState,
    ProcessStop,
    ProcessUsage,
    Response,
    SpawnOptions,
    StopOptions,
    WorkerToHost,
)
from spindle_trio._model._command import LANES, Command, Http, Line, Tcp
from spindle_trio._model._resource_limits import ResourceLimits
from spindle_trio._model._sandbox import READ_ONLY, WORKSPACE_WRITE, Sandbox
from spindle_trio._model._usage import Usage

AT = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
INFO = ProcessInfo("p1", "dist/a.py", "a", ProcessState.RUNNING, AT)

# ---- every value survives a round trip

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
optional_texts = st.none() | texts
json_values: st.SearchStrategy[JsonValue] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
optional_objects = st.none() | st.dictionaries(texts, json_values, max_size=3)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001  # made aware just here
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000, tzinfo=UTC)
)
optional_times = st.none() | times
milliseconds = st.integers(1, 120_000).map(lambda value: value / 1000)
counts = st.integers(0, 10**6)


def whole_limits(most: int = 10**15) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(1, most)


sandboxes = st.sampled_from(
    [READ_ONLY, WORKSPACE_WRITE, Sandbox(read=("@root", "/a"), deny=("/a/b",), network="unix", subprocesses=False)]
)
resource_limits = st.builds(
    ResourceLimits,
    memory=whole_limits(),
    pids=whole_limits(),
    cpus=st.none() | st.floats(0.001, 1_000),
    cpu_seconds=st.none() | milliseconds,
    open_files=whole_limits(),
    file_bytes=whole_limits(),
    run_seconds=milliseconds | st.just(math.inf),
)
optional_spans = st.none() | st.integers(0, 10**9).map(lambda value: value / 1000)
usages = st.builds(Usage, memory=st.none() | counts, pids=st.none() | counts, processor_seconds=optional_spans)
words = texts.map(lambda text: text.replace("\0", ""))
commands = st.builds(
    Command,
    argv=st.lists(words, max_size=3).map(lambda rest: ["server", *rest]),
    environment=st.none() | st.dictionaries(words.map(lambda text: f"V{text.replace('=', '')}"), words, max_size=3),
    folder=optional_texts,
    ready=st.sampled_from(["started", "notify", Line("up$"), Http("http://localhost:80/")])
    | st.builds(Tcp, port=st.integers(1, 65_535), host=st.sampled_from(["localhost", "::1", "127.0.0.1"])),
    lane=st.sampled_from(LANES),
    stop_signal=st.sampled_from(sorted({1, 2, 3, 9, 10, 15})),
)
spawn_options = st.builds(
    SpawnOptions,
    entry=texts,
    kind=optional_texts,
    key=optional_texts,
    payload=st.just(OMITTED) | json_values,
    metadata=optional_objects,
    user_id=optional_texts,
    startup_timeout=st.integers(1_000, 120_000).map(lambda value: value / 1000),
    heartbeat_timeout=milliseconds | st.just(math.inf),
    replace_existing=st.booleans(),
    resource_limits=st.none() | resource_limits,
    sandbox=st.none() | sandboxes,
) | st.builds(
    SpawnOptions,
    entry=texts | commands,
    key=texts.map("k".__add__),
    keep_key=st.booleans(),
    successor_of=optional_texts,
)
filters = st.builds(
    ProcessFilter,
    user_id=optional_texts,
    kind=optional_texts,
    key=optional_texts,
    state=st.none() | st.sampled_from(ProcessState),
)
stop_options = st.builds(StopOptions, user_id=optional_texts, reason=optional_texts, keep_key=st.booleans())
infos = st.builds(
    ProcessInfo,
    process_id=texts,
    entry=texts,
    kind=texts,
    state=st.sampled_from(ProcessState),
    started_at=times,
    key=optional_texts,
    user_id=optional_texts,
    metadata=optional_objects,
    ready_at=optional_times,
    last_heartbeat_at=optional_times,
    ended_at=optional_times,
    exit_reason=st.none() | st.sampled_from(ExitReason),
    error=optional_texts,
    peak_memory=st.none() | counts,
    processor_seconds=optional_spans,
    status=optional_texts,
)
post_mortems = st.builds(
    PostMortem,
    error=texts,
    exit_status=optional_texts,
    traceback=optional_texts,
    stderr=texts,
    since_heartbeat=st.none() | st.integers(0, 10**9).map(lambda value: value / 1000),
    stacks=optional_texts,
    limit=optional_texts,
)
events = st.builds(
    LifecycleEvent,
    process_id=texts,
    entry=texts,
    kind=texts,
    state=st.sampled_from(ProcessState),
    at=times,
    previous_state=st.none() | st.sampled_from(ProcessState),
    key=optional_texts,
    user_id=optional_texts,
    metadata=optional_objects,
    exit_reason=st.none() | st.sampled_from(ExitReason),
    error=optional_texts,
    result=json_values,
    post_mortem=st.none() | post_mortems,
    peak_memory=st.none() | counts,
    processor_seconds=optional_spans,
)
requests: st.SearchStrategy[WorkerToHost] = st.one_of(
    st.builds(ProcessSpawn, request_id=texts, options=spawn_options),
    st.builds(ProcessList, request_id=texts, filter=filters),
    st.builds(ProcessGet, request_id=texts, process_id=texts),
    st.builds(ProcessStop, request_id=texts, process_id=texts, options=stop_options, unwanted=st.booleans()),
    st.builds(ProcessReleaseKey, request_id=texts, process_id=texts, user_id=optional_texts),
    st.builds(ProcessUsage, request_id=texts, process_id=texts),
    st.builds(ProcessSend, process_id=texts, payload=json_values, user_id=optional_texts),
    st.builds(
        ProcessCall,
        request_id=texts,
        process_id=texts,
        method=texts.filter(bool),
        payload=json_values,
        timeout=st.integers(0, 10**12).map(lambda value: value / 1000) | st.just(math.inf),
        overrun=st.sampled_from(["leave", "kill"]),
        user_id=optional_texts,
        window=st.none() | st.integers(1, MOST_WINDOW),
    ),
    st.builds(ProcessCallCancel, request_id=texts),
    st.builds(ProcessCallIdle, request_id=texts, process_id=texts),
    st.builds(ProcessCallCredit, request_id=texts, items=st.integers(1, MOST_WINDOW)),
)
failures = st.builds(
    CallFailure,
    error_type=texts,
    text=texts,
    traceback=optional_texts,
    code=st.none() | st.integers(-(2**63), 2**63 - 1),
    data=json_values,
)
notices: st.SearchStrategy[HostToWorker] = st.one_of(
    st.builds(ProcessCallItem, request_id=texts, value=json_values),
    st.builds(ProcessLifecycle, event=events, messages=counts),
    st.builds(ProcessMessage, process_id=texts, payload=json_values, user_id=optional_texts),
    st.builds(
        Response,
        request_id=texts,
        result=json_values,
        error=optional_texts,
        error_type=optional_texts,
        info=st.none() | infos,
        limit=st.none() | counts,
        failure=st.none() | failures,
        known=st.none() | st.lists(texts, max_size=3).map(tuple),
        handed_over=st.none() | st.booleans(),
        post_mortem=st.none() | post_mortems,
    ),
)
parts = st.one_of(spawn_options, filters, stop_options, infos, post_mortems, events, failures, resource_limits, usages)


def through_text(value: wire.WireValue) -> object:
    """Send a value's wire form through JSON text, as a stream does."""
    return json.loads(json.dumps(wire.to_json(value), allow_nan=False))


@given(requests)
def test_every_request_survives_a_round_trip(request: WorkerToHost) -> None:
    assert wire.parse_request(through_text(request)) == request


@given(notices)
def test_every_notice_survives_a_round_trip(notice: HostToWorker) -> None:
    assert wire.parse_notice(through_text(notice)) == notice


@given(parts)
def test_every_part_survives_a_round_trip(value: wire.WireValue) -> None:
    assert wire.from_json(through_text(value), type(value)) == value


@given(requests | notices | parts)
def test_nothing_is_null_on_the_wire_but_results_and_what_is_inside_payloads(value: wire.WireValue) -> None:
    def check(data: wire.JsonObject) -> None:
        for name, field in data.items():
            if name in {"payload", "result", "value", "metadata", "data"}:
                continue
            assert field is not None, name
            is_other = name in {"cpus", "argv", "known", "read", "write", "deny"}  # a fraction, and lists of texts
            assert type(field) in {str, int, bool, dict} or is_other, name  # no enums, no floats
            if isinstance(field, dict):
                check(field)

    check(wire.to_json(value))


@given(st.floats(0.001, 119.9994), st.floats(1, 120))
def test_timeouts_survive_to_the_millisecond(heartbeat_timeout: float, startup_timeout: float) -> None:
    sent = SpawnOptions("a.py", heartbeat_timeout=heartbeat_timeout, startup_timeout=startup_timeout)
    arrived = wire.from_json(through_text(sent), SpawnOptions)
    assert arrived.heartbeat_timeout == pytest.approx(heartbeat_timeout, abs=0.000_501)
    assert arrived.startup_timeout == pytest.approx(startup_timeout, abs=0.000_501)


# ---- what is written


def test_a_spawn_is_written_as_the_spec_spells_it() -> None:
    options = SpawnOptions(
        "dist/a.py",
        kind="index",
        key="chat:42",
        payload=None,
        metadata={"snake_case": [1]},
        user_id="ada",
        startup_timeout=10,
        heartbeat_timeout=math.inf,
        replace_existing=True,
    )
    assert wire.to_json(ProcessSpawn("r1", options)) == {
        "type": "backend_process_spawn",
        "requestId": "r1",
        "options": {
            "entry": "dist/a.py",
            "kind": "index",
            "key": "chat:42",
            "payload": None,
            "metadata": {"snake_case": [1]},
            "userId": "ada",
            "startupTimeoutMs": 10_000,
            "heartbeatTimeoutMs": 0,
            "replaceExisting": True,
        },
    }


def test_what_is_absent_is_left_out() -> None:
    assert wire.to_json(SpawnOptions("a.py")) == {
        "entry": "a.py",
        "startupTimeoutMs": 15_000,
        "heartbeatTimeoutMs": 15_000,
    }
    assert wire.to_json(ProcessList("r1")) == {"type": "backend_process_list", "requestId": "r1"}
    assert wire.to_json(ProcessStop("r1", "p1")) == {
        "type": "backend_process_stop",
        "requestId": "r1",
        "processId": "p1",
    }


def test_resource_limits_and_figures_are_written_in_the_style_of_the_spec() -> None:
    limits = ResourceLimits(memory=2**29, pids=64, cpus=0.5, cpu_seconds=10, open_files=64, run_seconds=30)
    assert wire.to_json(limits) == {
        "memory": 2**29,
        "pids": 64,
        "cpus": 0.5,
        "cpuMs": 10_000,
        "openFiles": 64,
        "runMs": 30_000,
    }
    assert wire.to_json(ResourceLimits(cpu_seconds=1e-9, run_seconds=1e-9)) == {"cpuMs": 1, "runMs": 1}
    assert wire.from_json({"runMs": 0}, ResourceLimits) == ResourceLimits()
    assert wire.to_json(SpawnOptions("a.py", resource_limits=ResourceLimits()))["resourceLimits"] == {}
    assert wire.to_json(Usage(2**20, 3, 1.5)) == {"memory": 2**20, "pids": 3, "processorMs": 1_500}
    info = attrs.evolve(INFO, peak_memory=2**20, processor_seconds=0.25)
    assert wire.to_json(info).items() >= {"peakMemory": 2**20, "processorMs": 250}.items()
    assert wire.to_json(ProcessUsage("r1", "p1")) == {
        "type": "backend_process_usage",
        "requestId": "r1",
        "processId": "p1",
    }


def test_what_is_said_of_kept_keys_is_written_in_the_style_of_the_spec() -> None:
    options = wire.to_json(SpawnOptions("a.py", key="k", keep_key=True, successor_of="p1"))
    assert (options["key"], options["keepKey"], options["successorOf"]) == ("k", True, "p1")
    assert wire.to_json(ProcessStop("r1", "p1", StopOptions(keep_key=True), unwanted=True)) == {
        "type": "backend_process_stop",
        "requestId": "r1",
        "processId": "p1",
        "options": {"keepKey": True},
        "unwanted": True,
    }
    assert wire.to_json(ProcessReleaseKey("r1", "p1", "u")) == {
        "type": "backend_process_release_key",
        "requestId": "r1",
        "processId": "p1",
        "userId": "u",
    }


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ({"keepKey": True}, "options: keep_key needs a key: give the spawn one that is not blank"),
        ({"keepKey": True, "key": " "}, "options: keep_key needs a key: give the spawn one that is not blank"),
        (
            {"successorOf": "p1"},
            "options: successor_of needs the key that is kept: give the spawn the key of that process",
        ),
        ({"keepKey": 1, "key": "k"}, "options.keepKey: expected a boolean, got a number"),
        ({"successorOf": None, "key": "k"}, "options.successorOf: expected a string, got null"),
    ],
)
def test_options_that_keep_no_key_are_refused_and_say_why(field: dict[str, object], problem: str) -> None:
    spawn = {"type": "backend_process_spawn", "requestId": "r1", "options": {"entry": "a.py", **field}}
    with pytest.raises(PeerProtocolError) as caught:
        wire.parse_request(spawn)
    assert str(caught.value) == problem


def test_other_requests_are_written_as_the_spec_spells_them() -> None:
    assert wire.to_json(ProcessList("r1", ProcessFilter(user_id="u", state=ProcessState.TIMED_OUT))) == {
        "type": "backend_process_list",
        "requestId": "r1",
        "filter": {"userId": "u", "state": "timed_out"},
    }
    assert wire.to_json(ProcessGet("r1", "p1")) == {"type": "backend_process_get", "requestId": "r1", "processId": "p1"}
    assert wire.to_json(ProcessSend("p1", None, "u")) == {
        "type": "backend_process_send",
        "processId": "p1",
        "payload": None,
        "userId": "u",
    }


def test_notices_are_written_as_the_spec_spells_them() -> None:
    event = LifecycleEvent(
        "p1",
        "dist/a.py",
        "a",
        ProcessState.COMPLETED,
        AT,
        previous_state=ProcessState.RUNNING,
        exit_reason=ExitReason.COMPLETED,
        result={"done": 3},
    )
    assert wire.to_json(ProcessLifecycle(event)) == {
        "type": "backend_process_lifecycle",
        "event": {
            "processId": "p1",
            "entry": "dist/a.py",
            "kind": "a",
            "state": "completed",
            "at": "2026-03-01T12:30:15.250Z",
            "previousState": "running",
            "exitReason": "completed",
            "result": {"done": 3},
        },
    }
    assert wire.to_json(ProcessMessage("p1", [None], "u")) == {
        "type": "backend_process_message",
        "processId": "p1",
        "payload": [None],
        "userId": "u",
    }


def test_a_post_mortem_is_written_within_its_event() -> None:
    explained = PostMortem("no heartbeat for 2 s", exit_status="killed by SIGKILL", since_heartbeat=2.0045)
    event = LifecycleEvent("p1", "a", "a", ProcessState.TIMED_OUT, AT, error=str(explained), post_mortem=explained)
    written = wire.to_json(ProcessLifecycle(event))["event"]
    assert isinstance(written, dict)
    assert written["error"] == str(explained)
    assert written["postMortem"] == {
        "error": "no heartbeat for 2 s",
        "exitStatus": "killed by SIGKILL",
        "sinceHeartbeatMs": 2_005,
    }


@pytest.mark.parametrize(
    ("field", "problem"),
    [
        ({"stacks": None}, "postMortem.stacks: expected a string, got null"),
        ({"error": 7}, "postMortem.error: expected a string, got a number"),
        (
            {"sinceHeartbeatMs": "2"},
            "postMortem.sinceHeartbeatMs: expected a number of milliseconds, 0 or more, got a ",
        ),
        ({"sinceHeartbeatMs": True}, "postMortem.sinceHeartbeatMs: expected"),
        ({"sinceHeartbeatMs": -1}, "postMortem.sinceHeartbeatMs: expected"),
        ({"sinceHeartbeatMs": math.inf}, "postMortem.sinceHeartbeatMs: expected"),
        ({"sinceHeartbeatMs": math.nan}, "postMortem.sinceHeartbeatMs: expected"),
        ({"sinceHeartbeatMs": 10**400}, "postMortem.sinceHeartbeatMs: expected"),
    ],
)
def test_a_wrong_field_of_a_post_mortem_is_refused_with_its_path(field: dict[str, object], problem: str) -> None:
    written = wire.to_json(LifecycleEvent("p1", "a", "a", ProcessState.FAILED, AT))
    with pytest.raises(PeerProtocolError, match=problem):
        wire.from_json(written | {"postMortem": {"error": "no"} | field}, LifecycleEvent)


def test_a_success_always_has_a_result_and_a_failure_has_none() -> None:
    """The answer to a get of an unknown id is a null that is there."""
    assert wire.to_json(Response("r1")) == {"type": "response", "requestId": "r1", "result": None}
    assert wire.to_json(Response("r1", error="no")) == {"type": "response", "requestId": "r1", "error": "no"}


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0.0001, 1), (0.0015, 2), (0.00149, 1), (119.9996, 120_000), (500, 120_000), (1e308, 120_000), (math.inf, 0)],
)
def test_a_heartbeat_timeout_is_rounded_and_clamped_but_never_to_none(seconds: float, written: int) -> None:
    assert wire.to_json(SpawnOptions("a.py", heartbeat_timeout=seconds))["heartbeatTimeoutMs"] == written


@pytest.mark.parametrize(("seconds", "written"), [(0.2, 1_000), (1.0005, 1_001), (500, 120_000), (1e308, 120_000)])
def test_a_startup_timeout_is_rounded_and_clamped(seconds: float, written: int) -> None:
    assert wire.to_json(SpawnOptions("a.py", startup_timeout=seconds))["startupTimeoutMs"] == written


def test_a_time_is_cut_to_the_millisecond_in_utc() -> None:
    time = datetime(2026, 3, 1, 14, 30, 15, 250_999, tzinfo=timezone(timedelta(hours=2)))
    assert (
        wire.to_json(ProcessInfo("p", "a", "a", ProcessState.STARTING, time))["startedAt"] == "2026-03-01T12:30:15.250Z"
    )


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="naive"):
        wire.to_json(ProcessInfo("p", "a", "a", ProcessState.STARTING, AT.replace(tzinfo=None)))


# ---- what is read


def spawn_with(**options: object) -> SpawnOptions:
    request = wire.parse_request(
        {"type": "backend_process_spawn", "requestId": "r1", "options": {"entry": "a.py"} | options}
    )
    assert isinstance(request, ProcessSpawn)
    return request.options


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1_500, 1.5),
        (1_500.5, 1.501),
        (1_500.4999, 1.5),
        (999, 1),
        (0, 1),
        (-(10**400), 1),
        (120_001, 120),
        (10**400, 120),
        (math.nan, 15),
        (math.inf, 15),
        (-math.inf, 15),
        ("2000", 15),
        (None, 15),
        (True, 15),
        ([], 15),
    ],
)
def test_a_startup_timeout_is_rounded_clamped_or_the_default(written: object, seconds: float) -> None:
    assert spawn_with(startupTimeoutMs=written).startup_timeout == seconds


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1, 0.001),
        (0.5, 0.001),
        (0.499_999_999_999_999_94, math.inf),
        (0, math.inf),
        (-1, math.inf),
        (120_000.5, 120),
        (10**400, 120),
        (math.nan, 15),
        (math.inf, 15),
        ("0", 15),
        (None, 15),
        (False, 15),
    ],
)
def test_a_heartbeat_timeout_is_rounded_clamped_none_or_the_default(written: object, seconds: float) -> None:
    assert spawn_with(heartbeatTimeoutMs=written).heartbeat_timeout == seconds


def test_an_absent_timeout_is_the_default() -> None:
    assert spawn_with() == SpawnOptions("a.py")


def test_an_omitted_payload_is_told_apart_from_null() -> None:
    assert spawn_with().payload is OMITTED
    assert spawn_with(payload=None).payload is None


def test_unknown_fields_are_ignored() -> None:
    assert wire.parse_request(
        {"type": "backend_process_get", "requestId": "r1", "processId": "p1", "newer": {"field": 1}}
    ) == ProcessGet("r1", "p1")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"entry": 7}, "options.entry: expected a string, got a number"),
        ({"entry": None}, "options.entry: expected a string, got null"),
        ({"kind": 5}, "options.kind: expected a string, got a number"),
        ({"key": None}, "options.key: expected a string, got null"),
        ({"key": 7.5}, "options.key: expected a string, got a number"),
        ({"userId": 5}, "options.userId: expected a string, got a number"),
        ({"replaceExisting": "yes"}, "options.replaceExisting: expected a boolean, got a string"),
        ({"replaceExisting": 1}, "options.replaceExisting: expected a boolean, got a number"),
        ({"metadata": None}, "options.metadata: expected an object, got null"),
        ({"metadata": []}, "options.metadata: expected an object, got an array"),
        ({"metadata": "x"}, "options.metadata: expected an object, got a string"),
        ({"kind": True}, "options.kind: expected a string, got a boolean"),
        ({"kind": {}}, "options.kind: expected a string, got an object"),
        ({"kind": b"x"}, "options.kind: expected a string, got bytes"),
        ({"environment": {"A": 7}}, "options.environment: expected a string for 'A', got a number"),
        (
            {"environment": {"A=B": "x"}},
            "options.environment: no environment can hold the variable 'A=B': a name cannot contain '=', nor a name or "
            "a value a NUL",
        ),
        ({"arguments": "--fast"}, "options.arguments: expected an array, got a string"),
        ({"arguments": ["\0"]}, r"options.arguments: the argument '\x00' contains a NUL, which no argument may"),
        ({"kind": "\ud800"}, "options.kind: the text has a lone surrogate"),
        ({"resourceLimits": 512}, "options.resourceLimits: expected an object, got a number"),
        ({"resourceLimits": None}, "options.resourceLimits: expected an object, got null"),
        ({"resourceLimits": {"memory": "512M"}}, "options.resourceLimits.memory: expected a count, got a string"),
        ({"resourceLimits": {"pids": -1}}, "options.resourceLimits.pids: expected a count, got a number"),
        ({"resourceLimits": {"cpus": "1"}}, "options.resourceLimits.cpus: expected a number, got a string"),
        (
            {"resourceLimits": {"memory": 0}},
            "options.resourceLimits: memory must be a whole number of bytes, 1 or more, or None, not 0",
        ),
        (
            {"resourceLimits": {"cpus": math.nan}},
            "options.resourceLimits: cpus must be a positive, finite number of processors, or None, not nan",
        ),
        (
            {"resourceLimits": {"runMs": None}},
            "options.resourceLimits.runMs: expected a number of milliseconds, 0 or more, got null",
        ),
        (
            {"resourceLimits": {"cpuMs": True}},
            "options.resourceLimits.cpuMs: expected a number of milliseconds, 0 or more, got a boolean",
        ),
    ],
)
def test_a_wrong_type_in_spawn_options_is_named_with_its_path(options: dict[str, object], problem: str) -> None:
    with pytest.raises(PeerProtocolError) as caught:
        spawn_with(**options)
    assert str(caught.value) == problem


CALL = {"type": "backend_process_call", "requestId": "r", "processId": "p", "method": "m", "payload": 1}


@pytest.mark.parametrize("overrun", ["leave", "kill"])
def test_a_call_says_what_becomes_of_a_process_that_overruns(overrun: str) -> None:
    request = wire.parse_request(CALL | {"overrun": overrun})
    assert isinstance(request, ProcessCall)
    assert request.overrun == overrun


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (None, "expected an object, got null"),
        ([], "expected an object, got an array"),
        ({}, "type: missing"),
        ({"type": 5}, "type: expected a string, got a number"),
        ({"type": "backend_process_dance"}, "type: 'backend_process_dance' is unknown"),
        ({"type": "response", "requestId": "r1"}, "type: 'response' is unknown"),
        ({"type": "backend_process_spawn", "requestId": "r1"}, "options: missing"),
        ({"type": "backend_process_spawn", "requestId": "r1", "options": {}}, "options.entry: missing"),
        (
            {"type": "backend_process_spawn", "requestId": "r1", "options": 5},
            "options: expected an object, got a number",
        ),
        ({"type": "backend_process_list", "requestId": "r1", "filter": None}, "filter: expected an object, got null"),
        (
            {"type": "backend_process_list", "requestId": "r1", "filter": {"state": 5}},
            "filter.state: expected a string, got a number",
        ),
        ({"type": "backend_process_list", "requestId": 1}, "requestId: expected a string, got a number"),
        (
            {"type": "backend_process_get", "requestId": "r1", "processId": 5},
            "processId: expected a string, got a number",
        ),
        (
            {"type": "backend_process_stop", "requestId": "r1", "processId": None},
            "processId: expected a string, got null",
        ),
        (
            {"type": "backend_process_stop", "requestId": "r1", "processId": "p1", "options": {"reason": 42}},
            "options.reason: expected a string, got a number",
        ),
        ({"type": "backend_process_send", "processId": "p1"}, "payload: missing"),
        (CALL | {"method": ""}, "method: expected 1 to 1024 bytes, got 0"),
        (CALL | {"overrun": "maybe"}, "overrun: expected 'leave' or 'kill', got 'maybe'"),
        (
            {"type": "backend_process_spawn", "requestId": 1, "options": {"entry": "a.py", "kind": 5}},
            "requestId: expected a string, got a number; options.kind: expected a string, got a number",
        ),
    ],
)
def test_a_malformed_request_is_refused_with_every_path(request_: object, problem: str) -> None:
    with pytest.raises(PeerProtocolError) as caught:
        wire.parse_request(request_)
    assert str(caught.value) == problem


@given(requests, st.data())
def test_a_request_that_is_changed_at_random_is_read_or_refused_and_nothing_else(
    request: WorkerToHost, data: st.DataObject
) -> None:
    """Whatever a peer sends, the host's end has one error to expect."""

    def changed(value: object) -> object:
        if not isinstance(value, dict) or data.draw(st.integers(0, 3)) == 0:
            return data.draw(json_values | st.just(math.nan) | st.just("\ud800"))
        kept = {name: field for name, field in value.items() if data.draw(st.integers(0, 9))}
        name = data.draw(st.sampled_from([*kept, "type", "newer"]))
        return kept | {name: changed(kept.get(name))}

    try:
        wire.parse_request(changed(through_text(request)))
    except PeerProtocolError as error:
        assert str(error)


def test_an_unknown_state_in_a_filter_matches_no_live_process() -> None:
    """The reference answers with an empty list; a terminal state does the same here."""
    request = wire.parse_request({"type": "backend_process_list", "requestId": "r1", "filter": {"state": "nonsense"}})
    assert isinstance(request, ProcessList)
    assert request.filter.state is not None
    assert request.filter.state.is_terminal


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("state", "dancing", "info.state: 'dancing' is not a state"),
        ("exitReason", "bored", "info.exitReason: 'bored' is not an exit reason"),
        ("startedAt", "yesterday", "info.startedAt: 'yesterday' is not an ISO-8601 time with an offset"),
        (
            "startedAt",
            "2026-03-01T12:00:00",
            "info.startedAt: '2026-03-01T12:00:00' is not an ISO-8601 time with an offset",
        ),
        (
            "readyAt",
            "0001-01-01T00:00:00+05:00",
            "info.readyAt: '0001-01-01T00:00:00+05:00' is not an ISO-8601 time with an offset",
        ),
        ("endedAt", 5, "info.endedAt: expected a string, got a number"),
    ],
)
def test_a_malformed_info_is_refused_with_its_path(field: str, value: object, problem: str) -> None:
    answer = {"type": "response", "requestId": "r1", "error": "x", "info": wire.to_json(INFO) | {field: value}}
    with pytest.raises(PeerProtocolError) as caught:
        wire.parse_notice(answer)
    assert str(caught.value) == problem


@pytest.mark.parametrize("code", [True, 1.5, "1"])
def test_what_is_no_code_of_an_error_is_refused(code: object) -> None:
    failure = {"errorType": "JsonRpcError", "text": "no", "code": code}
    answer = {"type": "response", "requestId": "r1", "error": "x", "failure": failure}
    with pytest.raises(PeerProtocolError, match=r"failure\.code: expected an integer"):
        wire.parse_notice(answer)


@pytest.mark.parametrize("count", [-1, True, 1.5, "1", None])
def test_what_is_no_count_is_refused(count: object) -> None:
    answer = {"type": "response", "requestId": "r1", "error": "x", "limit": count}
    with pytest.raises(PeerProtocolError, match="limit: expected a count"):
        wire.parse_notice(answer)


@pytest.mark.parametrize(
    "written",
    [
        "2026-03-01T12:30:15.250Z",
        "2026-03-01T12:30:15.25Z",
        "2026-03-01T12:30:15.250000Z",
        "2026-03-01T12:30:15.250000000Z",
        "2026-03-01T14:30:15.250+02:00",
    ],
)
def test_a_time_is_read_whatever_its_precision_and_offset(written: str) -> None:
    info = wire.from_json(wire.to_json(INFO) | {"startedAt": written}, ProcessInfo)
    assert info.started_at == AT
    assert info.started_at.tzinfo is UTC


def test_a_part_of_a_wrong_kind_is_refused_without_a_path() -> None:
    with pytest.raises(PeerProtocolError) as caught:
        wire.from_json([], ProcessInfo)
    assert str(caught.value) == "expected an object, got an array"


@pytest.mark.parametrize(
    ("data", "request_id"),
    [
        ({"requestId": "r1"}, "r1"),
        ({"requestId": "ü"}, "ü"),
        ({"requestId": "\ud800"}, None),
        ({"requestId": 5}, None),
        ({}, None),
        ([], None),
    ],
)
def test_a_malformed_request_can_be_answered_if_its_id_is_a_text(data: object, request_id: str | None) -> None:
    assert wire.request_id_of(data) == request_id


# ---- errors


@pytest.mark.parametrize(
    "error",
    [
        errors.SpawnRefusedError("why"),
        errors.EntryError("why"),
        errors.UserRequiredError("why"),
        errors.DuplicateKeyError("why", INFO),
        errors.ProcessLimitError("why", 16),
        errors.LaunchError("why", info=INFO),
        errors.StartupTimeoutError("why", info=INFO),
        errors.StartupFailedError("why", info=INFO),
        errors.StartupCancelledError("why", info=INFO),
        errors.ProcessAccessError("why"),
        errors.PayloadError("why"),
        errors.LocalProtocolError("why"),
        errors.PeerProtocolError("why"),
        errors.CallError("why"),
        errors.CallTimeoutError("why"),
        errors.CallFailedError("why", error_type="ValueError", text="no"),
        errors.CallFailedError("why", error_type="JsonRpcError", text="no", code=-32601, data={"x": [None, 1.5]}),
        errors.UnknownMethodError("why", known=["index", "square"]),
        errors.UnknownMethodError("why"),
        errors.ProcessLostError("why", info=INFO, handed_over=False),
        errors.ProcessLostError("why", info=INFO, post_mortem=PostMortem("no heartbeat"), handed_over=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_both_ends_raise_the_same_error(error: SpindleError) -> None:
    answer = wire.parse_notice(through_text(wire.error_response("r1", error)))
    assert isinstance(answer, Response)
    assert answer.request_id == "r1"
    raised = wire.exception_from(answer)
    assert type(raised) is type(error)
    assert str(raised) == "why"
    assert vars(raised) == vars(error)


def test_the_traceback_of_a_handler_is_shown_on_the_other_side() -> None:
    error = errors.CallFailedError("why", error_type="ValueError", text="no", traceback="Traceback: here")
    raised = wire.exception_from(wire.error_response("r1", error))
    assert isinstance(raised, errors.CallFailedError)
    assert raised.traceback == "Traceback: here"
    assert raised.__notes__ == ["In the process:\nTraceback: here"]


@pytest.mark.parametrize(
    "answer",
    [
        Response("r1", error="why"),
        Response("r1", error="why", error_type="ProcessLostError"),
        Response("r1", error="why", error_type="NewerError"),
        Response("r1", error="why", error_type="StartupTimeoutError"),
        Response("r1", error="why", error_type="DuplicateKeyError"),
        Response("r1", error="why", error_type="ProcessLimitError"),
        Response("r1", error="why", error_type="KeyboardInterrupt", info=INFO),
    ],
)
def test_an_error_that_cannot_be_told_is_a_plain_one(answer: Response) -> None:
    """Among them those of a class whose attributes did not come with it."""
    raised = wire.exception_from(answer)
    assert type(raised) is SpindleError
    assert str(raised) == "why"


def test_an_error_without_words_has_some_on_the_other_side() -> None:
    assert wire.error_response("r1", errors.EntryError()).error == "EntryError"
    assert str(wire.exception_from(Response("r1", error=""))) == "the request failed"
