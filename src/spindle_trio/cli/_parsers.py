"""The words of `spindle-trio`, their help, and one-line errors that show what to type."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import spindle_trio
from spindle_trio.cli import _arguments as arguments
from spindle_trio.cli import _help_texts as help_texts
from spindle_trio.cli._bounds import add_bounds
from spindle_trio.cli._options import EXIT_REFUSED
from spindle_trio.cli._printing import print_out

if TYPE_CHECKING:
    from _typeshed import SupportsWrite


class _Parser(argparse.ArgumentParser):
    """Says what is wrong, and what to type instead, in one line and without the usage."""

    to_type = (
        "spindle-trio run ENTRY, spindle-trio exec -- PROGRAM, spindle-trio up FILE.toml, "
        "spindle-trio call ENTRY METHOD, spindle-trio doctor, or spindle-trio types"
    )

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


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read what was typed; exit with the reason if it is wrong."""
    parser, commands = _build_parsers()
    words = sys.argv[1:] if words is None else list(words)
    program: list[str] = []
    if words[:1] == ["exec"] and "--" in words:  # before the parser, which would drop a later `--` of the program's
        at = words.index("--")
        words, program = words[:at], words[at + 1 :]
    options, unknown = parser.parse_known_args(words)
    if unknown:
        command = commands[options.command]
        known = [option for action in command._actions for option in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        advice = f"type: {near[0]}" if near else f"for the options, type: {command.prog} --help"
        parser.exit(EXIT_REFUSED, f"{command.prog}: unknown argument {unknown[0]!r}; {advice}\n")
    if options.command == "exec":
        options.words += program
        if not options.words:
            commands["exec"].error("there is no program")
    if options.command == "run" and options.restart == "never" and options.give_up_after is not None:
        problem = "argument --give-up-after: without restarts there is nothing to give up; add --restart on_failure"
        commands["run"].error(problem)
    return options


def _build_parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Build the whole parser, and those of the commands within it."""
    parser = _Parser(
        prog="spindle-trio",
        description="Supervise child processes: startup and heartbeat deadlines, graceful stops, no survivors.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"spindle-trio {spindle_trio.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,exec,up,call,doctor,types}")
    run = commands.add_parser(
        "run",
        help="run one entry under supervision and print what happens",
        description="Run one entry under supervision. Print each event and message as it comes.",
        epilog=help_texts.RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run.to_type = "spindle-trio run ENTRY"
    _add_entry(run)
    _add_spawn_options(run)
    run.add_argument("--kind", metavar="TEXT", help="kind of the process (default: the entry)")
    run.add_argument("--key", metavar="TEXT", help="key of the process (default: none)")
    run.add_argument("--metadata", type=arguments.metadata, metavar="JSON", help="JSON object kept with the process")
    run.add_argument("--json", action="store_true", help="print one JSON object a line, in the wire form")
    run.add_argument(
        "--restart",
        choices=("never", "on_failure", "always"),
        default="never",
        help="when to start another process after an end (default: never)",
    )
    run.add_argument(
        "--give-up-after",
        type=arguments.failures,
        metavar="N",
        help="how many failures in a row are the last (default: 8)",
    )
    _add_exec(
        commands.add_parser(
            "exec",
            help="run one program under supervision, within limits and in a sandbox",
            description="Run one program under supervision. Pass its stdin, stdout and stderr through.",
            epilog=help_texts.EXEC,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
    )
    up = commands.add_parser(
        "up",
        help="run the services of a file and print what they do",
        description="Start the services of a TOML file in its order, each once the one before is ready. Restart what "
        "fails.\nPrint each line, message and event with its time and service. At the end stop them in reverse.",
        epilog=help_texts.UP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    up.to_type = "spindle-trio up FILE.toml"
    up.add_argument("file", type=Path, metavar="FILE.toml", help="the file of services")
    up.add_argument(
        "--only",
        action="extend",
        type=arguments.names,
        default=[],
        metavar="NAME[,NAME…]",
        help="start these services alone, in the order of the file; may be given again, for more",
    )
    up.add_argument("--verbose", action="store_true", help="show the log on stderr")
    call = commands.add_parser(
        "call",
        help="call a method of one entry and print its answer",
        description="Run one entry, call a method of it, and print the answer as a line of JSON; "
        "or, of a generator, each item as it comes.",
        epilog=help_texts.CALL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    call.to_type = "spindle-trio call ENTRY METHOD JSON"
    _add_entry(call)
    call.add_argument("method", type=arguments.method, metavar="METHOD", help="name of the method, as in its `calls`")
    call.add_argument(
        "argument",
        nargs="?",
        type=arguments.argument,
        metavar="JSON",
        help="""JSON value passed to the method, such as '{"n": 3}'; -: read it from stdin (default: null)""",
    )
    call.add_argument(
        "--stream",
        action="store_true",
        help="read the method as a stream at once; needed only where a plain function returns a generator",
    )
    call.add_argument(
        "--timeout",
        type=arguments.timeout,
        default=math.inf,
        metavar="SECONDS",
        help="time allowed for the answer, or the whole stream, once the process is ready (default: no limit)",
    )
    _add_spawn_options(call)
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
    return parser, commands.choices


def _add_exec(command: _Parser) -> None:
    command.to_type = "spindle-trio exec -- PROGRAM ARG…"
    command.usage = "%(prog)s [options] -- PROGRAM [ARG …]"
    command.add_argument("words", nargs="*", metavar="PROGRAM", help="a name on the PATH, or a path, and its arguments")
    command.add_argument("--root", type=arguments.folder, metavar="FOLDER", help="where it runs (default: this folder)")
    command.add_argument(
        "--env",
        type=arguments.variable,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="give it a variable beside the usual ones (PATH, HOME, LANG and the like)",
    )
    _add_grace(command)
    add_bounds(command)


def _add_entry(command: _Parser) -> None:
    command.add_argument("entry", metavar="ENTRY", help="path of the entry file: relative to the root, or absolute")


def _add_spawn_options(command: _Parser) -> None:
    """Add the options that all commands with a process have."""
    command.add_argument(
        "--root",
        type=arguments.folder,
        metavar="FOLDER",
        help="the worker's root (default: this folder, or that of an absolute ENTRY which is not below it)",
    )
    command.add_argument(
        "--payload",
        type=arguments.payload,
        metavar="JSON",
        help="""JSON value passed to the entry, such as '{"folder": "."}'""",
    )
    command.add_argument(
        "--user", type=arguments.user, default="local", metavar="ID", help="owner of the process (default: local)"
    )
    command.add_argument(
        "--startup-timeout",
        type=arguments.startup_timeout,
        default=15.0,
        metavar="SECONDS",
        help="time allowed until ready() (default: 15)",
    )
    command.add_argument(
        "--heartbeat-timeout",
        type=arguments.heartbeat_timeout,
        default=15.0,
        metavar="SECONDS",
        help="time allowed between heartbeats; inf: no watchdog (default: 15)",
    )
    _add_grace(command)
    add_bounds(command)


def _add_grace(command: _Parser) -> None:
    """Add the options that end a command's process, or show what it logs."""
    command.add_argument(
        "--grace",
        type=arguments.grace,
        default=5.0,
        metavar="SECONDS",
        help="time allowed to end after a stop, before the kill (default: 5)",
    )
    command.add_argument(
        "--verbose", action="store_true", help="show the log on stderr; it has what the process prints"
    )
