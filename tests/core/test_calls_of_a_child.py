"""What both runtimes of a child share about calls: names and handlers, what a call shows, and failures."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys

import pytest

from spindle_trio import PayloadError, PeerProtocolError
from spindle_trio._protocol._call_answers import Answer, CallReader, Failure, Item
from spindle_trio._protocol._call_frames import IncomingCall, encode_failure
from spindle_trio._protocol._payload import PayloadBounds
from spindle_trio.child import CallCancelled, CallContext
from spindle_trio.child._calls import CallHandlers, RelayedError, encode_value, entry_of, failure_of
from spindle_trio.child._entry import EntryFileError, load_entry, read_code
from spindle_trio.child._exit_frames import FAILURE_BYTES, encode_ready, encode_takes_calls
from spindle_trio.child._facts import ProcessFacts, facts_from_init


def facts(*, frame_bytes: int = 1_000_000, protocol: int = 2, bounds: PayloadBounds | None = None) -> ProcessFacts:
    return ProcessFacts(
        process_id="p1",
        entry="entry.py",
        kind="entry.py",
        bounds=bounds or PayloadBounds(64, 100_000),
        frame_bytes=frame_bytes,
        protocol=protocol,
    )


def call(method: str, window: int | None = None) -> IncomingCall:
    return IncomingCall(1, method, None, None, window)


def as_the_host_reads_it(about: dict[str, object], bounds: PayloadBounds, frame_bytes: int) -> Failure:
    body = encode_failure(1, about)
    assert len(body) <= frame_bytes
    frame = CallReader(bounds).read(body)
    assert isinstance(frame, Failure)
    return frame


def square(payload: int) -> int:
    return payload * payload


async def square_later(payload: int) -> int:
    return payload * payload


def count(payload: int):
    yield payload


async def count_later(payload: int):
    yield payload


def test_a_handler_is_added_in_four_forms_and_returned_as_it_is() -> None:
    handlers = CallHandlers()
    assert not handlers
    assert handlers.add(square) is square
    assert handlers.add("other", square) is square

    @handlers.add
    def plain(payload: object) -> object:
        return payload

    @handlers.add("named")
    def decorated(payload: object) -> object:
        return payload

    assert plain("x") == decorated("x") == "x"
    assert handlers
    assert handlers.names() == ["named", "other", "plain", "square"]
    assert handlers.find("named").function is decorated
    assert handlers.find("decorated") is None


@pytest.mark.parametrize(
    ("function", "is_stream", "is_async"),
    [
        (square, False, False),
        (square_later, False, True),
        (count, True, False),
        (count_later, True, True),
        (functools.partial(count_later, 1), True, True),
        (type("Callable", (), {"__call__": lambda _, payload: payload})(), False, False),
    ],
)
def test_a_handler_knows_whether_it_streams_and_whether_it_is_async(function, is_stream, is_async) -> None:
    handlers = CallHandlers()
    handlers.add("it", function)
    handler = handlers.find("it")
    assert (handler.is_stream, handler.is_async) == (is_stream, is_async)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((square,), ValueError, "'square' has a handler already"),
        (("square", square), ValueError, "'square' has a handler already"),
        (("", square), ValueError, "is empty"),
        (("",), ValueError, "is empty"),
        (("square",), ValueError, "has a handler already"),
        (("\ud800", square), PayloadError, "lone surrogate"),
        (("x" * 1025, square), PayloadError, "1025 bytes, more than 1024"),
        (("x", 3), TypeError, "takes a function, not int"),
        ((3,), TypeError, "not int"),
        ((None,), TypeError, "not NoneType"),
        ((3, square), TypeError, "a name and a function, not int first"),
        ((lambda payload: payload,), TypeError, "no name to call it by"),
        ((functools.partial(square),), TypeError, "no name to call it by"),
    ],
)
def test_what_is_no_name_and_no_function_is_refused_and_changes_nothing(arguments, error, text) -> None:
    handlers = CallHandlers()
    handlers.add(square)
    with pytest.raises(error, match=text):
        handlers.add(*arguments)
    assert handlers.names() == ["square"]


def test_a_decorator_refuses_a_name_that_was_taken_meanwhile() -> None:
    handlers = CallHandlers()
    decorate = handlers.add("square")
    handlers.add(square)
    with pytest.raises(ValueError, match="already"):
        decorate(square)


def test_a_call_without_its_handler_names_those_there_are() -> None:
    handlers = CallHandlers()
    handlers.add(square)
    handlers.add(count)
    assert handlers.refusal_of(call("no such"), facts()) == {"known": ["count", "square"]}
    assert handlers.refusal_of(call("square"), facts()) is None
    assert handlers.refusal_of(call("count", 16), facts()) is None


def test_a_stream_of_a_function_and_a_call_of_a_generator_say_what_to_use() -> None:
    handlers = CallHandlers()
    handlers.add(square)
    handlers.add(count)
    assert handlers.refusal_of(call("square", 16), facts()) is None  # it may return a generator

    async def later(payload: object) -> None:
        """Answers once."""

    handlers.add(later)
    of_function = handlers.refusal_of(call("later", 16), facts())
    assert of_function == {
        "error": "TypeError",
        "text": "'later' is no generator, and answers once: use call(), not stream()",
    }
    of_generator = handlers.refusal_of(call("count"), facts())
    assert of_generator == {
        "error": "TypeError",
        "text": "'count' is a generator: read it with stream(), not with call()",
    }


@pytest.mark.parametrize(
    "bounds",
    [
        PayloadBounds(64, 100_000),
        PayloadBounds(1, 4),
        PayloadBounds(64, 100_000, 50),
        PayloadBounds(64, 100_000, None, 2),
    ],
)
@pytest.mark.parametrize("frame_bytes", [1000, 1_000_000])
def test_the_names_of_handlers_and_failures_fit_into_any_bounds(bounds, frame_bytes) -> None:
    handlers = CallHandlers()
    for number in range(2000):
        handlers.add(f"\x00 handler {number}", square)
    some = facts(frame_bytes=frame_bytes, bounds=bounds)
    refusal = handlers.refusal_of(call("no such"), some)
    assert as_the_host_reads_it(refusal, bounds, frame_bytes).known is not None
    error = type("Long\x01" * 300, (ValueError,), {})("\x00" * 200_000)
    failure = as_the_host_reads_it(failure_of(error, some), bounds, frame_bytes)
    assert len(failure.text.encode()) <= FAILURE_BYTES


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:  # noqa: ASYNC103  # no Trio runs in here
        return caught  # noqa: ASYNC104  # as above


def test_a_failure_has_the_type_the_text_and_the_traceback() -> None:
    about = failure_of(raised(KeyError("no such folder")), facts())
    assert about["error"] == "KeyError"
    assert about["text"] == "'no such folder'"
    assert about["traceback"].startswith("Traceback (most recent call last):\n")
    assert "in raised" in about["traceback"]
    assert set(failure_of(KeyError("x"), facts(), has_traceback=False)) == {"error", "text"}


def test_a_failure_of_a_group_names_its_members() -> None:
    group = ExceptionGroup("several", [ValueError(f"number {number}") for number in range(5)])
    about = failure_of(raised(group), facts())
    assert about["error"] == "ExceptionGroup"
    assert "ValueError: number 0; ValueError: number 1; ValueError: number 2; …" in about["text"]
    assert "number 4" in about["traceback"]


def test_a_failure_whose_text_cannot_be_made_still_names_its_type() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class Shy(ExceptionGroup):  # noqa: ASYNC126  # nobody splits it
        @property
        def exceptions(self):
            raise RuntimeError("no members")

    assert failure_of(raised(Mute()), facts())["text"] == "(its message could not be made)"
    assert "Shy" in failure_of(raised(Shy("x", [ValueError()])), facts())["error"]


def test_a_failure_with_a_lone_surrogate_can_be_sent() -> None:
    about = failure_of(raised(ValueError("a \ud800 b")), facts())
    assert about["text"] == "a \\ud800 b"
    assert as_the_host_reads_it(about, PayloadBounds(64, 100_000), 1_000_000).text == "a \\ud800 b"


def test_a_value_is_an_answer_or_an_item_or_the_failure_that_says_what_is_wrong_with_it() -> None:
    reader = CallReader(PayloadBounds(64, 100_000))
    assert reader.read(encode_value(7, {"n": 9}, facts())) == Answer(7, {"n": 9})
    assert reader.read(encode_value(7, {"n": 9}, facts(), is_item=True)) == Item(7, {"n": 9})
    unsafe = reader.read(encode_value(7, {"n": {1}}, facts()))
    assert unsafe == Failure(7, "PayloadError", "answer.n: set is not JSON-safe: send a list")
    too_long = reader.read(encode_value(7, "x" * 10_000, facts(frame_bytes=10_000), is_item=True))
    assert isinstance(too_long, Failure)
    assert too_long.text.startswith("item: 10006 bytes as JSON, more than 9999 in one frame")


def test_handlers_tell_of_each_registration() -> None:
    told: list[list[str]] = []
    handlers = CallHandlers(lambda: told.append(handlers.names()))
    decorate = handlers.add("first")
    assert told == []
    decorate(square)
    handlers.add(square)
    assert told == [["first"], ["first", "square"]]


def test_a_call_tells_whether_it_was_cancelled_and_raises_if_asked() -> None:
    state = [False]
    context = CallContext("square", math.inf, lambda: state[0])
    assert (context.method, context.deadline, context.is_cancelled) == ("square", math.inf, False)
    context.check()
    assert repr(context) == "<CallContext square>"
    state[0] = True
    assert context.is_cancelled
    with pytest.raises(CallCancelled, match="'square' was cancelled"):
        context.check()
    assert not issubclass(CallCancelled, Exception)
    assert repr(context) == "<CallContext square cancelled>"


@pytest.mark.parametrize(("offers", "protocol"), [({}, 1), ({"offers": 1}, 1), ({"offers": 2}, 2), ({"offers": 9}, 2)])
def test_the_facts_say_which_protocol_both_ends_speak(offers, protocol) -> None:
    frame = {
        "type": "init",
        "protocol": 1,
        "processId": "p1",
        "entry": "entry.py",
        "kind": "entry.py",
        "heartbeatTimeoutMs": 0,
        "limits": {"frameBytes": 1000, "depth": 64, "values": 1000},
    }
    assert facts_from_init(frame | offers).protocol == protocol


def test_ready_accepts_the_protocol_and_tells_of_handlers_where_the_host_offers_it() -> None:
    old, new = facts(protocol=1), facts(protocol=2)
    assert json.loads(encode_ready(old, concurrency=1)) == {"type": "ready"}
    assert json.loads(encode_ready(old)) == {"type": "ready"}
    assert json.loads(encode_ready(new)) == {"type": "ready", "protocol": 2}
    for told, concurrency in [(1, 1), (16, 16), (65_536, 10**30)]:
        frame = {"type": "ready", "protocol": 2, "calls": True, "concurrency": told}
        assert json.loads(encode_ready(new, concurrency=concurrency)) == frame
        assert json.loads(encode_takes_calls(concurrency)) == {"type": "calls", "concurrency": told}


class Registering:
    def __init__(self) -> None:
        self.handlers = CallHandlers()
        self.is_ready = False

    def on_call(self, method: str, function) -> object:
        return self.handlers.add(method, function)

    def ready(self) -> None:
        assert self.handlers
        self.is_ready = True


async def test_a_module_with_calls_and_no_run_is_an_entry_that_registers_them_and_is_ready(tmp_path) -> None:
    path = tmp_path / "tools.py"
    path.write_text("calls = {'double': lambda payload: payload * 2}\n")
    entry = load_entry(str(path), read_code(str(path))[1])
    process = Registering()
    assert entry(process) is None
    assert process.is_ready
    assert process.handlers.names() == ["double"]

    path = tmp_path / "async_tools.py"
    path.write_text("async def double(payload): ...\n\ndef half(payload): ...\n\ncalls = {'d': double, 'h': half}\n")
    entry = load_entry(str(path), read_code(str(path))[1])
    process = Registering()
    await entry(process)
    assert process.is_ready
    assert process.handlers.names() == ["d", "h"]


def test_a_run_goes_before_calls(tmp_path) -> None:
    path = tmp_path / "both.py"
    path.write_text("def run(process): return 'run'\n\ncalls = {'run': run}\n")
    assert load_entry(str(path), read_code(str(path))[1])(None) == "run"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("calls = 3", "'calls' of .* maps no names to functions, but is of type int"),
        ("calls = [len]", "of type list"),
        ("calls = {}", "is empty"),
        ("calls = {1: len}", "unfit entry, 1: names are strings"),
        ("calls = {'': len}", "unfit entry, '': the name of a method is empty"),
        ("calls = {'x': None}", "unfit entry, 'x': on_call takes a function, not NoneType"),
        ("calls = {'x': 3}", "unfit entry, 'x': on_call takes a function, not int"),
        ("calls = {'x' * 2000: len}", "unfit entry, 'xxx"),
        ("calls = None", r'write: def run\(process\), or: calls = {"name": function}$'),
    ],
)
def test_calls_that_are_no_mapping_of_names_to_functions_are_refused(tmp_path, source, text) -> None:
    path = tmp_path / "tools_wrong.py"
    path.write_text(source)
    with pytest.raises(EntryFileError, match=text):
        load_entry(str(path), read_code(str(path))[1])


def test_entry_of_is_given_any_mapping() -> None:
    class Lazy(dict[str, object]):
        pass

    entry_of(Lazy(double=square), "x.py")


def test_the_shared_part_loads_nothing_beyond_what_a_child_has() -> None:
    program = (
        "import sys; import spindle_trio.child._handlers; before = set(sys.modules); import spindle_trio.child._calls; "
        "print(sorted(set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['spindle_trio._protocol._call_frames', 'spindle_trio.child._calls']"


def test_a_fallback_serves_any_method_that_has_no_handler_of_its_own():
    handlers = CallHandlers()
    handlers.add(square)
    assert handlers.refusal_of(call("other"), facts()) == {"known": ["square"]}
    handlers.serve_any(square_later)
    assert len(handlers) == 2
    assert handlers.refusal_of(call("other"), facts()) is None
    assert handlers.find("square").function is square
    assert handlers.find("anything").function is square_later
    assert "use call()" in str(handlers.refusal_of(call("anything", window=1), facts()))


def test_a_relayed_error_has_its_code_and_data_and_no_traceback():
    error = raised(RelayedError("JsonRpcError", "no such file", code=-32000, data={"path": "x"}))
    failure = as_the_host_reads_it(failure_of(error, facts()), facts().bounds, 10_000)
    assert failure == Failure(1, "JsonRpcError", "no such file", code=-32000, data={"path": "x"})


@pytest.mark.parametrize("data", [2**70, "\ud800", "x" * 2000, [[[[[[1]]]]]]])
def test_data_that_cannot_travel_is_left_out_and_that_is_said(data):
    bounds = PayloadBounds(4, 50)
    about = failure_of(RelayedError("JsonRpcError", "no", code=5, data=data), facts(bounds=bounds, frame_bytes=2000))
    failure = as_the_host_reads_it(about, bounds, 2000)
    assert (failure.code, failure.data) == (5, None)
    assert failure.text.startswith("no (its data is left out: ")


@pytest.mark.parametrize("about", [{"code": "x"}, {"code": 1.5}, {"code": True}])
def test_a_failure_with_a_code_that_is_none_breaks_the_protocol(about):
    body = encode_failure(1, {"error": "E", "text": "t", **about})
    with pytest.raises(PeerProtocolError, match="code is not an integer"):
        CallReader(facts().bounds).read(body)
