"""The contract's table of states, stated once: what each input does in each state. All oracles of the tests read it.

Nothing here is taken from the library. Inputs are named as the library's `Input` values are. A process is `ending` once
its end is settled, until it has been reaped; what comes after the end changes nothing, and has no column.
"""

from __future__ import annotations

from typing import NamedTuple

STATES = ("starting", "running", "stopping", "ending")

TABLE: dict[str, tuple[str, str, str, str]] = {
    #                           starting                running                 stopping                ending
    "ready":                    ("running",             "-",                    "-",                    "-"),
    "complete":                 ("let go: completed",   "let go: completed",    "let go: completed",    "-"),
    "fail":                     ("let go: failed",      "let go: failed",       "let go: failed",       "-"),
    "says stopped":             ("kill: failed",        "kill: failed",         "let go: stopped",      "-"),
    "exit":                     ("gone: failed",        "gone: failed",         "gone: stopped",        "-"),
    "breaks the protocol":      ("kill: failed",        "kill: failed",         "kill: stopped",        "kill"),
    "closes its control lane and lives on":
                                ("kill: failed",        "kill: failed",         "kill: stopped",        "-"),
    "launch fails":             ("gone: failed",        "-",                    "gone: stopped",        "-"),
    "startup deadline":         ("dump: timed_out",     "-",                    "-",                    "-"),
    "heartbeat deadline":       ("-",                   "dump: timed_out",      "-",                    "-"),
    "runs for too long":        ("-",                   "dump: timed_out",      "-",                    "-"),
    "cancelled call goes on":   ("-",                   "dump: timed_out",      "dump: stopped",        "-"),
    "grace period over":        ("-",                   "-",                    "kill: stopped",        "kill"),
    "outlives its kill":        ("-",                   "-",                    "-",                    "abandon"),
    "stop":                     ("stopping",            "stopping",             "-",                    "-"),
    "replace or unload":        ("stopping",            "stopping",             "-",                    "-"),
    "caller of spawn cancelled": ("kill: stopped",      "kill: stopped",        "kill: stopped",        "kill"),
    "kill":                     ("-",                   "-",                    "kill: stopped",        "kill"),
}  # fmt: skip
"""`-` is no change. Otherwise what the host does, and after a colon the end that is settled by it.

*let go*: it waits for the exit, for the grace period. *gone*: there is no process any more. *dump*: it lets the process
show its stacks, and kills it then."""


class Row(NamedTuple):
    """The effect of an input in a state."""

    does: str
    """A live state that it enters, what the host does, or `-`."""
    end: str | None
    """How it ends, if that is settled by this input; also the exit reason, unless the host has one of its own."""


ROWS = {
    (said, state): Row(does, end or None)
    for said, columns in TABLE.items()
    for state, (does, _, end) in zip(STATES, (column.partition(": ") for column in columns), strict=True)
}


def follows(said: str, state: str) -> Row:
    """Look up what an input does in a state."""
    return ROWS[said, state]
