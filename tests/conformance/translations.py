"""Which scenarios are also played with Python entries, and what is expected otherwise there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs

from conformance import async_entries, blocking_entries, hostile_entries
from conformance.changes import at_the_end_of, is_any_message, message, replaced, with_any_beat
from conformance.differences import DIFFERENCES, FAILED, Difference, alike, expected
from conformance.recording import Output, Scenario, with_python_names
from conformance.settings import OWN_STEPS

Entry = Callable[..., object] | str
"""A function that is an entry, or a whole file if the scenario is about the file."""

BLOCKING_HEADER: Final = "from __future__ import annotations\n\nimport atexit, json, os, sys, threading\n\n\n"
ASYNC_HEADER: Final = "from __future__ import annotations\n\nimport sys\n\nimport trio\n\n\n"
"""What the files of those functions import."""

IDLE: Final = [
    "entry_backslash_and_space",
    "entry_dot_slash",
    "handler_returns_idle",
    "heartbeat_timeout",
    "heartbeat_timeout_1ms",
    "limits_depth_32",
    "limits_entries_1000",
    "limits_key_256",
    "limits_kind_128",
    "limits_kind_undefined",
    "limits_metadata_undefined",
    "limits_nodes_10000",
    "limits_payload_256k_exact",
    "limits_payload_array_extra_prop",
    "spawn_during_unload_race",
    "stop_no_handler",
    "stop_user_scope_ignores_userid",
    "stop_wrong_user",
    "entry_not_dist",
    "heartbeat_default_15s",
]

ECHO: Final = [
    "dup_key_rejected",
    "dup_key_same_tick",
    "key_colon_collision",
    "key_kind_whitespace",
    "key_other_user",
    "replace_bad_entry_keeps_old",
    "send_after_sigkill_race",
    "send_wrong_user",
    "sigkill_running",
]

TRANSLATIONS: Final[Mapping[str, Entry]] = {
    **dict.fromkeys(IDLE, async_entries.idle),
    **dict.fromkeys(ECHO, blocking_entries.echo),
    "big_message_then_complete": blocking_entries.big_message,
    "cleanup_not_called_on_kill": async_entries.cleans_up,
    "cleanup_on_complete": async_entries.cleans_up_on_complete,
    "complete_during_stopping_async": async_entries.completes_while_stopping,
    "complete_with_lingering_exit_handler": blocking_entries.lingers,
    "context_shape": blocking_entries.shows_its_context,
    "context_shape_minimal": blocking_entries.shows_a_minimal_context,
    "disconnect_running": hostile_entries.closes_its_control_lane,
    "dup_key_rejected_while_starting": async_entries.never_ready,
    "dup_key_rejected_while_stopping": blocking_entries.deaf,
    "env_and_stdio": blocking_entries.shows_its_surroundings,
    "exit0_running": blocking_entries.exits_0_running,
    "exit0_starting": blocking_entries.exits_0_starting,
    "exit3_running": blocking_entries.exits_3_running,
    "exit3_starting": blocking_entries.exits_3_starting,
    "exit3_stopping": blocking_entries.exits_3_stopping,
    "exit_starting_before_startup_timer": "import os\nos._exit(7)\n",
    "export_both": BLOCKING_HEADER
    + inspect.getsource(blocking_entries.sends_default).replace("sends_default", "default")
    + "\n\n"
    + inspect.getsource(blocking_entries.sends_run).replace("sends_run", "run"),
    "export_run_only": blocking_entries.sends_run,
    "fail_before_ready": blocking_entries.fails_before_ready,
    "fail_while_stopping_from_starting": blocking_entries.fails_when_stopped,
    "heartbeat_during_stopping": async_entries.beats_while_stopping,
    "heartbeat_keeps_alive": async_entries.beats_four_times,
    "heartbeat_timeout_blocked_loop": blocking_entries.loops,
    "import_missing_dependency": "import not_a_package_here\n\ndef run(process):\n    pass\n",
    "import_syntax_error": "def run(\n",
    "import_throws": 'raise RuntimeError("top-level kaboom")\n',
    "limits_child_messages": blocking_entries.sends_what_is_too_much,
    "limits_fail_error": blocking_entries.fails_at_length,
    "limits_messages": blocking_entries.tells_lengths,
    "list_filters": blocking_entries.holds,
    "malformed_ipc_null": hostile_entries.sends_null,
    "malformed_ipc_unknown_type": hostile_entries.sends_nonsense,
    "message_before_ready": blocking_entries.sends_before_ready,
    "message_flood_100_then_complete": blocking_entries.floods_100,
    "message_flood_then_complete": blocking_entries.floods_5000,
    "messages_do_not_count_as_heartbeat": async_entries.sends_and_never_beats,
    "metadata_empty_and_array": blocking_entries.shows_its_metadata,
    "onstop_unsubscribe": async_entries.takes_a_handler_back,
    "ready_then_complete": blocking_entries.completes_when_told,
    "ready_then_fail_blank": blocking_entries.fails_with_blanks,
    "ready_then_fail_trimmed": blocking_entries.fails_with_padding,
    "ready_twice": blocking_entries.ready_twice,
    "replace_stopping": blocking_entries.deaf,
    "sigstop_heartbeat": async_entries.beats,
    "spoofed_complete_keeps_running": hostile_entries.says_complete_and_stays,
    "startup_timeout": async_entries.never_ready,
    "stop_async_handler_rejects": async_entries.raises_when_stopped,
    "stop_ended": blocking_entries.completes,
    "stop_handler_fails": blocking_entries.fails_in_its_stop_handler,
    "stop_handler_never_exits": blocking_entries.sees_the_stop,
    "stop_handler_no_reason": blocking_entries.tells_the_reason,
    "stop_handler_throws": blocking_entries.raises_in_its_stop_handler,
    "stop_reason_nonstring_and_empty": blocking_entries.waits_for_two_stops,
    "stop_two_handlers_first_throws": blocking_entries.has_two_stop_handlers,
    "stop_while_starting_slow_import": "import threading\nthreading.Event().wait(0.8)\n\ndef run(process):\n"
    "    process.on_stop(lambda notice: process.complete())\n    process.ready()\n",
    "throw_async": async_entries.raises,
    "throw_async_after_ready": async_entries.raises_after_ready,
    "throw_in_timer": async_entries.raises_in_a_task,
}

NO_ENTRY_RUNS: Final = "nothing is spawned, or the spawn is refused before any entry is looked at"

UNTRANSLATED: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        [
            "entry_dotdot_leading",
            "entry_empty",
            "entry_nonstring",
            "entry_not_js",
            "get_nonstring",
            "limits_entries_1001",
            "limits_metadata_array",
            "limits_metadata_null",
            "limits_metadata_string",
            "limits_nodes_10001",
            "limits_payload_date",
            "limits_payload_keys_count_plus1",
            "limits_payload_map",
            "limits_payload_nan",
            "operator_missing_user",
            "payload_rich_types",
            "send_unknown",
            "spawn_payload_mutation_isolated",
            "user_scope_no_owner",
        ],
        NO_ENTRY_RUNS,
    ),
    "entry_cjs_module_exports_function": "Python has one kind of module",
    "replace_then_launch_fails": "what runs Python is the program that the host itself runs on",
    "throw_nonerror": "in Python only exceptions can be raised",
}

PYTHON_DIFFERENCES: Final[Sequence[Difference]] = (
    *DIFFERENCES,
    Difference(
        "a context has Python's names",
        "Names and values are Python's (contract, names), and every attribute is there, with `None` for what was not "
        "given.",
        {
            "context_shape": replaced(
                is_any_message,
                message(
                    "P1",
                    {
                        "processIdType": "str",
                        "entry": "dist/entry.js",
                        "kind": "k",
                        "key": "x",
                        "payload": [1, 2],
                        "metadata": {"z": 1},
                        "userId": "u-owner",
                        "readyReturns": "None",
                        "heartbeatReturns": "None",
                        "onStopReturns": "function",
                    },
                ),
            ),
            "context_shape_minimal": replaced(
                is_any_message,
                message(
                    "P1",
                    {
                        "hasPayload": False,
                        "payloadIs": "None",
                        "kind": "dist/entry.js",
                        "userId": "u-owner",
                        "hasKey": False,
                        "hasMetadata": False,
                    },
                ),
            ),
        },
    ),
    Difference(
        "a blocking entry beats while it waits",
        "Waiting in the runtime counts as alive (contract, entries), and where these entries have returned or wait in "
        "`receive`, those in JavaScript have left the event loop idle.",
        alike(
            with_any_beat,
            "dup_key_rejected",
            "key_colon_collision",
            "key_kind_whitespace",
            "key_other_user",
            "list_filters",
            "metadata_empty_and_array",
            "ready_then_complete",
            "replace_bad_entry_keeps_old",
            "stop_handler_never_exits",
        ),
    ),
    Difference(
        "Python has other surroundings",
        "There is no channel, and there are no globals to look for (contract, entries).",
        {"env_and_stdio": replaced(is_any_message, message("P1", {"argvTail": [], "secret": None, "kept": None}))},
    ),
    Difference(
        "an entry that raises while it is stopping has failed",
        "Its own word wins over a plain stop (contract, states: the entry raises). In JavaScript it is a rejection "
        "that nobody handles, and ends the program.",
        {"stop_async_handler_rejects": at_the_end_of("P1", {"state": "failed", **FAILED})},
    ),
)


def source_of(entry: Entry) -> str:
    """Write an entry file."""
    if isinstance(entry, str):
        return entry
    header = ASYNC_HEADER if inspect.iscoroutinefunction(entry) else BLOCKING_HEADER
    return f"{header}{inspect.getsource(entry)}\n\nrun = {entry.__name__}\n"


def in_python(scenario: Scenario) -> Scenario:
    """Return a scenario with Python entries, as it is played."""
    steps = OWN_STEPS.get(scenario.name, scenario.steps)
    sources = {name: source_of(TRANSLATIONS[scenario.name]) for name in scenario.entry_files}
    return attrs.evolve(scenario, steps=steps).in_python(sources)


def expected_in_python(scenario: Scenario) -> list[Output]:
    """Say what is expected of a scenario with Python entries."""
    return with_python_names(expected(scenario, PYTHON_DIFFERENCES))
