"""How scenarios are played, if not just as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

WAITED_FOR: Final = "heartbeat_default_15s"
"""It really takes that long; the ordinary run looks at the deadline, and at the whole of it in virtual time."""

GRACE_PERIOD: Final = 5.0

GRACE_PERIODS: Final[Mapping[str, float]] = {
    "replace_stopping": 0.5,
    "spoofed_complete_keeps_running": 0.5,
    "stop_handler_never_exits": 1.5,
    "stop_handler_throws": 0.5,
    "stop_reason_nonstring_and_empty": 1.5,
}
"""In a scenario that waits for the end of a grace period, a shorter one shows the same."""

SHORTER: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "complete_with_lingering_exit_handler": [
        ("Date.now() + 1500", "Date.now() + 300"),
        ('"sleep": 1800', '"sleep": 400'),
    ]
}
"""Replacements in the entries and steps of slow scenarios, where they need not be as recorded."""

SLEEP_LONG: Final = frozenset({"exit_starting_before_startup_timer", "heartbeat_keeps_alive", "heartbeat_timeout"})
"""Scenarios that wait for a second and more; tests of the contract show in less time what they do."""

CHANNEL: Final = (
    'import fs from "node:fs";\n'
    "const frame = (fd, value) => {\n"
    "  const body = Buffer.from(JSON.stringify(value));\n"
    "  const header = Buffer.alloc(4);\n"
    "  header.writeUInt32BE(body.length);\n"
    "  fs.writeSync(fd, Buffer.concat([header, body]));\n"
    "};\n"
    'const control = Number(fs.readFileSync("/proc/self/cmdline", "utf8").split("\\0").at(-5));\n'
)
"""Finds the control lane of a process by its command line, and writes frames to it behind the runtime's back."""

OWN_CHANNEL: Final[Mapping[str, tuple[str, str]]] = {
    "disconnect_running": ("globalThis.process.disconnect()", "fs.closeSync(control)"),
    "malformed_ipc_null": ("globalThis.process.send(", "frame(control, "),
    "malformed_ipc_unknown_type": ("globalThis.process.send(", "frame(control, "),
    "spoofed_complete_keeps_running": (
        'globalThis.process.send({ type: "complete" })',
        'frame(control, { type: "complete", messages: 0 })',
    ),
}
"""Scenarios whose entries go around the context: what is written there, and what does the same on our lanes."""

OWN_STEPS: Final = {
    "disconnect_running": [
        {"spawn": "s1", "options": {"entry": "dist/entry.js", "heartbeatTimeoutMs": 0}},
        {"wait": {"resp": "s1"}},
        {"wait": {"state": "failed"}},
        {"get": "g1", "p": "P1"},
        {"send": "anyone?", "p": "P1"},
        {"stop": "st1", "p": "P1"},
        {"alive": "P1"},
    ]
}
"""Steps of those that wait for what happens here."""

MEASURED: Final = frozenset({"messages_do_not_count_as_heartbeat"})
"""Scenarios in which a process repeats a message as often as it has time to."""

TOLD_BY_NODE: Final[Mapping[str, str]] = {"import_syntax_error": "SyntaxError: "}
"""Output of Node that the recording lacks: only Node knows the line of a syntax error."""
