"""The options of `spindle-trio`, and one-line errors that show what to type."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import attrs

import spindle_trio
from spindle_trio.cli._printing import print_out

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from spindle_trio import JsonValue

EXIT_REFUSED: Final = 2
"""A bad option or entry. `argparse` uses the same."""

_RUN_EPILOG: Final = """\
Each line of standard input is sent to the process as a message: as JSON where it parses, as a string otherwise.
The first Ctrl-C or SIGTERM stops the process gracefully, the second kills it.

exit status:
  0    the process completed, or was stopped
  1    it failed, or its output could not be written
  2    it was refused: a bad option or entry
  124  it timed out
  130  Ctrl-C came, however the process then ended
  141  the reader of its output closed the pipe
  143  SIGTERM came, however the process then ended
"""


@attrs.frozen
class RunOptions:
    """The arguments of `spindle-trio run`, checked as far as possible without a host."""

    entry: str
    """As typed; made relative if it was absolute and lies below the root."""
    root: Path
    """An absolute path of a folder that exists."""
    payload: object
    """A JSON value, or `OMITTED`."""
    kind: str | None
    """As typed."""
    key: str | None
    """As typed."""
    user: str
    """The owner of the process."""
    metadata: dict[str, JsonValue] | None
    """A JSON object."""
    startup_timeout: float
    """Seconds, above 0."""
    heartbeat_timeout: float
    """Seconds, above 0; `math.inf` for none."""
    grace: float
    """Seconds, 0 or more."""
    as_json: bool
    """Whether to print the wire form."""
    verbose: bool
    """Whether to show the log, which includes what the process prints."""


def run_options(options: argparse.Namespace) -> RunOptions:
    """Put together the arguments of `run`."""
    entry, root = _below_root(options.entry, options.root)
    return RunOptions(
        entry=entry,
        root=root,
        payload=spindle_trio.OMITTED if options.payload is None else options.payload.value,
        kind=options.kind,
        key=options.key,
        user=options.user,
        metadata=options.metadata,
        startup_timeout=options.startup_timeout,
        heartbeat_timeout=options.heartbeat_timeout,
        grace=options.grace,
        as_json=options.json,
        verbose=options.verbose,
    )


def _below_root(entry: str, root: Path | None) -> tuple[str, Path]:
    """Make an absolute entry relative to the root; without one, to this folder, or else to its own."""
    base = Path.cwd() if root is None else root
    file = Path(entry)
    if not file.is_absolute():
        return entry, base
    for folder, path in ((base, file), (base.resolve(), file), (base.resolve(), file.resolve())):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix(), base
    return (entry, base) if root is not None else (file.name, file.parent)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong, and what to type instead, in one line and without the usage."""

    to_type = "spindle-trio run ENTRY, spindle-trio doctor, or spindle-trio types"

    def error(self, message: str) -> NoReturn:
        problem = " ".join(message.split())
        if "--" not in problem.partition(": ")[2]:  # a problem with an option shows how to type it already
            problem += f"; type: {self.to_type}"
        self.exit(EXIT_REFUSED, f"{self.prog}: {problem}\n")

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print like the rest of the program: the parser's own method ignores errors of writing."""
        if file is not sys.stdout:
            super()._print_message(message, file)
        elif (status := print_out(message)) != 0:
            sys.exit(status)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read what was typed; exit with the reason if it is wrong."""
    parser, run = _build_parsers()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [option for action in run._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        advice = f"type: {near[0]}" if near else f"for the options, type: spindle-trio {options.command} --help"
        run.exit(EXIT_REFUSED, f"spindle-trio {options.command}: unknown argument {unknown[0]!r}; {advice}\n")
    return options


def _build_parsers() -> tuple[_Parser, _Parser]:
    """Build the whole parser, and the one of `run` within it."""
    parser = _Parser(
        prog="spindle-trio",
        description="Supervise child processes: startup and heartbeat deadlines, graceful stops, no survivors.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"spindle-trio {spindle_trio.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,doctor,types}")
    run = commands.add_parser(
        "run",
        help="run one entry under supervision and print what happens",
        description="Run one entry under supervision. Print each event and message as it comes.",
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.to_type = "spindle-trio run ENTRY"
    run.add_argument("entry", metavar="ENTRY", help="path of the entry file: relative to the root, or absolute")
    run.add_argument(
        "--root",
        type=_folder,
        metavar="FOLDER",
        help="the worker's root (default: this folder, or that of an absolute ENTRY which is not below it)",
    )
    run.add_argument(
        "--payload", type=_payload, metavar="JSON", help="""JSON value passed to the entry, such as '{"folder": "."}'"""
    )
    run.add_argument("--kind", metavar="TEXT", help="kind of the process (default: the entry)")
    run.add_argument("--key", metavar="TEXT", help="key of the process (default: none)")
    run.add_argument("--user", type=_user, default="local", metavar="ID", help="owner of the process (default: local)")
    run.add_argument("--metadata", type=_metadata, metavar="JSON", help="JSON object kept with the process")
    run.add_argument(
        "--startup-timeout",
        type=_startup_timeout,
        default=15.0,
        metavar="SECONDS",
        help="time allowed until ready() (default: 15)",
    )
    run.add_argument(
        "--heartbeat-timeout",
        type=_heartbeat_timeout,
        default=15.0,
        metavar="SECONDS",
        help="time allowed between heartbeats; inf: no watchdog (default: 15)",
    )
    run.add_argument(
        "--grace",
        type=_grace,
        default=5.0,
        metavar="SECONDS",
        help="time allowed to end after a stop, before the kill (default: 5)",
    )
    run.add_argument("--json", action="store_true", help="print one JSON object a line, in the wire form")
    run.add_argument("--verbose", action="store_true", help="show the log on stderr; it has what the process prints")
    doctor = commands.add_parser(
        "doctor",
        help="check whether this machine can supervise processes",
        description="Check whether this machine can supervise processes, and how.",
        epilog="The exit status is 0 if processes can be supervised here, and 1 if not.",
        allow_abbrev=False,
    )
    doctor.add_argument(
        "--json", action="store_true", help="print one JSON object: ok, containment, and a field for each line"
    )
    types = commands.add_parser(
        "types",
        help="write the type declarations for JavaScript entries",
        description="Print the type declarations for JavaScript entries, or write them to a file beside an entry.",
        allow_abbrev=False,
    )
    types.to_type = "spindle-trio types, or spindle-trio types FILE"
    types.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="file to write, or a folder for spindle-trio.d.ts (default: print)",
    )
    return parser, run


@attrs.frozen
class _Given:
    """Distinguishes `--payload null` from no `--payload`."""

    value: JsonValue


def _folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"wants a folder that exists, such as --root . (there is no folder {text!r})")
    return folder.absolute()


def _payload(text: str) -> _Given:
    try:
        return _Given(parse_json(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"""wants JSON, such as --payload '{{"folder": "."}}' or --payload '"text"' ({error})"""
        ) from None


def _metadata(text: str) -> dict[str, JsonValue]:
    try:
        value = parse_json(text)
    except ValueError as error:
        value = str(error)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("""wants a JSON object, such as --metadata '{"ticket": 7}'""")
    return value


def _user(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("wants a name that is not blank, such as --user ada")
    return text


def _startup_timeout(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"wants seconds above 0, such as --startup-timeout 15, not {text!r}")
    return seconds


def _heartbeat_timeout(text: str) -> float:
    seconds = _number(text)
    if not seconds > 0:
        raise argparse.ArgumentTypeError(
            f"wants seconds above 0, such as --heartbeat-timeout 15, or inf for no watchdog, not {text!r}"
        )
    return seconds


def _grace(text: str) -> float:
    seconds = _number(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"wants seconds, such as --grace 5, not {text!r}")
    return seconds


def _number(text: str) -> float:
    """Read a number. Anything else becomes NaN, which no range contains."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def parse_json(text: str) -> JsonValue:
    """Read JSON in the strict sense, without NaN and the infinities.

    Raises:
        ValueError: it is no JSON, or nested too deeply to read.
    """
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
