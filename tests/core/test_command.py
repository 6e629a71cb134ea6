"""The value `Command`: what it takes, what it refuses, how it shows itself, and its two JSON forms."""

from __future__ import annotations

import pickle
import signal
from pathlib import Path

import pytest

from spindle_trio import Command, Http, Line, SpawnOptions, Tcp, wire
from spindle_trio._errors import PeerProtocolError
from spindle_trio._model._command import Readiness, name_of_command, plain_command

EVERYTHING = Command(
    ["my-server", "--port", "0"],
    environment={"MODE": "test"},
    folder="data",
    ready=Tcp(5432, "localhost"),
    lane="jsonrpc-headers",
    stop_signal=signal.SIGINT,
)


def test_a_command_is_a_frozen_value_that_shows_what_was_given() -> None:
    assert repr(Command(["ls", "-l"])) == "Command(['ls', '-l'])"
    assert repr(EVERYTHING) == (
        "Command(['my-server', '--port', '0'], environment={'MODE': …}, folder='data', "
        "ready=Tcp(port=5432, host='localhost'), lane='jsonrpc-headers', stop_signal=<Signals.SIGINT: 2>)"
    )
    assert Command(("ls",)) == Command(["ls"])
    assert {Command(["ls"]): 1, EVERYTHING: 2}[EVERYTHING] == 2
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING  # noqa: S301  # our own


def test_a_path_may_stand_in_argv_and_as_folder() -> None:
    command = Command([Path("/bin/ls"), "-l"], folder=Path("data"))  # type: ignore[list-item]
    assert command.argv == ("/bin/ls", "-l")
    assert command.folder == "data"


@pytest.mark.parametrize(
    ("argv", "error", "words"),
    [
        ([], ValueError, "argv must have at least the program in it"),
        ("ls -l 'a b'", TypeError, r"type: Command\(\['ls', '-l', \"'a b'\"\]\), or for a line of the shell"),
        ([" "], ValueError, "argv must begin with a program, not ' '"),
        (["a\0b"], ValueError, "contains a NUL"),
        (["ls", 3], TypeError, "argv must be a sequence of str; 3 is not a str"),
        (None, TypeError, "argv must be a sequence of str, as in argv="),
        ({"ls"}, TypeError, "argv must be a sequence of str"),
        (["\ud800"], ValueError, "lone surrogate"),
    ],
)
def test_a_wrong_argv_is_refused(argv: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Command(argv)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"ready": "soon"}, ValueError, r"ready must be 'started', 'notify', Line\(pattern\)"),
        ({"ready": Line}, ValueError, "ready must be"),
        ({"ready": None}, ValueError, "ready must be"),
        (
            {"lane": "json"},
            ValueError,
            "lane must be 'none', 'bytes', 'lines', .* not 'json'",
        ),
        ({"lane": None}, ValueError, "lane must be"),
        ({"stop_signal": 0}, ValueError, "stop_signal must be a signal"),
        ({"stop_signal": 65}, ValueError, "stop_signal must be a signal"),
        ({"stop_signal": True}, ValueError, "stop_signal must be a signal"),
        ({"stop_signal": "SIGINT"}, ValueError, "stop_signal must be a signal"),
        ({"stop_signal": signal.SIGSTOP}, ValueError, "cannot be SIGSTOP"),
        ({"environment": {"A": 1}}, TypeError, "environment must map str to str"),
        ({"environment": {"A=": "1"}}, ValueError, "no environment can hold"),
        ({"folder": 3}, TypeError, "folder must be a str or a path"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Command(["ls"], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["(", "*", "[a"])
def test_a_line_needs_a_regular_expression(pattern: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        Line(pattern)
    with pytest.raises(TypeError, match="pattern must be a str"):
        Line(b"ready")  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [0, -1, 65_536, 1.5, "80", True, None])
def test_a_port_is_a_number_of_16_bits(port: object) -> None:
    with pytest.raises(ValueError, match="port must be the number of a port, 1 to 65535"):
        Tcp(port)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["", "a b", "a\n", "ä"])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(ValueError, match="host must be the name or the address of a host"):
        Tcp(80, host)
    with pytest.raises(TypeError, match="host must be a str"):
        Tcp(80, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:80",
        "https://localhost/",
        "http://",
        "http://a:b/",
        "http://a:0/",
        "http://me@a/",
        "http://a:99999/",
    ],
)
def test_a_url_is_one_of_http(url: str) -> None:
    with pytest.raises(ValueError, match="url must begin with http:// and a host"):
        Http(url)


@pytest.mark.parametrize("url", ["http://a/ b", "http://a/\r\nX: y", "http://a/ä"])
def test_a_url_has_nothing_in_it_that_would_end_a_request(url: str) -> None:
    with pytest.raises(ValueError, match="percent-encode it"):
        Http(url)
    with pytest.raises(TypeError, match="url must be a str"):
        Http(80)  # type: ignore[arg-type]


def test_good_ways_to_be_ready_are_taken() -> None:
    for ready in ("started", "notify", Line("x"), Tcp(1), Http("http://[::1]:8000/a?b=c")):
        assert Command(["a"], ready=ready).ready == ready  # type: ignore[arg-type]


def test_a_command_names_its_process_as_a_shell_would_and_shortly() -> None:
    assert name_of_command(Command(["sh", "-c", "echo a b"])) == "sh -c 'echo a b'"
    long = name_of_command(Command(["a", "b" * 500]))
    assert len(long) == 200
    assert long.endswith("…")
    assert name_of_command(Command(["a", "b\nc\x1b[0m"])) == "a 'b c [0m'"
    assert name_of_command(Command(["a", "\udcff"])).encode()


@pytest.mark.parametrize("options", [{"payload": None}, {"payload": 3}])
def test_a_payload_is_refused_by_name(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a Command takes no payload"):
        SpawnOptions(Command(["ls"]), **options)  # type: ignore[arg-type]


def test_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a Command takes no arguments beside its argv"):
        SpawnOptions(Command(["ls"]), arguments=["-l"])
    assert SpawnOptions(Command(["ls"]), folder="a", environment={"A": "1"}).folder == "a"


# ---- the wire


@pytest.mark.parametrize(
    "ready", ["started", "notify", Line("up$"), Tcp(80), Tcp(80, "::1"), Http("http://localhost:80/")]
)
def test_a_command_survives_the_wire(ready: Readiness) -> None:
    for command in (Command(["a", "ü\n"], ready=ready), EVERYTHING):
        options = SpawnOptions(command, key="k")
        assert wire.from_json(wire.to_json(options), SpawnOptions) == options


def test_only_what_is_not_as_by_default_is_written() -> None:
    assert wire.to_json(SpawnOptions(Command(["ls"])))["entry"] == {"argv": ["ls"]}
    assert wire.to_json(SpawnOptions(EVERYTHING))["entry"] == {
        "argv": ["my-server", "--port", "0"],
        "environment": {"MODE": "test"},
        "folder": "data",
        "ready": {"kind": "tcp", "host": "localhost", "port": 5432},
        "lane": "jsonrpc-headers",
        "stopSignal": 2,
    }


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({}, "entry: argv: missing"),
        ({"argv": "ls"}, "entry: argv: expected an array, got a string"),
        ({"argv": [1]}, "entry: argv: expected a string, got a number"),
        ({"argv": []}, "entry: argv must have at least the program in it"),
        ({"argv": ["a"], "ready": "started"}, "entry: ready: expected an object"),
        ({"argv": ["a"], "ready": {"kind": "soon"}}, "entry: ready: kind: 'soon' is no way to be ready"),
        ({"argv": ["a"], "ready": {"kind": "tcp"}}, "entry: ready: port must be the number of a port"),
        ({"argv": ["a"], "ready": {"kind": "tcp", "port": "80"}}, "entry: ready: port: expected a count"),
        ({"argv": ["a"], "ready": {"kind": "line", "pattern": "("}}, "is no regular expression"),
        ({"argv": ["a"], "lane": "json"}, "entry: lane: 'json' is no lane"),
        ({"argv": ["a"], "stopSignal": 0}, "entry: stop_signal must be a signal"),
        ({"argv": ["a"], "environment": None}, "entry: environment: expected an object, got null"),
        ({"argv": ["a"], "environment": {"A": 1}}, "entry: environment: expected a string for 'A'"),
        ({"argv": ["a"], "folder": 1}, "entry: folder: expected a string"),
        (["ls"], "entry: expected a string, got an array"),
    ],
)
def test_a_wrong_command_on_the_wire_is_refused_by_name(entry: object, words: str) -> None:
    with pytest.raises(PeerProtocolError) as caught:
        wire.from_json({"entry": entry}, SpawnOptions)
    assert words in str(caught.value)


def test_a_payload_with_a_command_is_refused_on_the_wire() -> None:
    with pytest.raises(PeerProtocolError, match="takes no payload"):
        wire.from_json({"entry": {"argv": ["ls"]}, "payload": 1}, SpawnOptions)


def test_a_shim_is_told_every_field() -> None:
    assert set(plain_command(Command(["ls"]))) == {"argv", "environment", "folder", "ready", "lane", "stopSignal"}
