"""The deliberate differences from the recorded host, each with its reason, in one table.

A difference says, for each scenario that it is about, what is expected instead of what was recorded: as a change of the
recording, so that all else is compared as it stands. `test_differences.py` sees to it that each is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from conformance.changes import (
    Change,
    answer,
    as_recorded_first,
    at_the_end_of,
    begins,
    both,
    event,
    in_addition,
    info,
    instead,
    is_answer_to,
    is_any_message,
    is_end_of,
    is_heartbeat,
    is_message,
    message,
    moved_behind,
    refusal,
    replaced,
    undelivered,
    with_own_time_of_stopping,
    without,
)
from conformance.recording import Output, Scenario

FAILED: Final = {"exitReason": "failed", "error": True}
STARTED_AND_LEFT: Final = begins("P1", "s1")
"""The events of a process that is spawned, and then left alone."""


@attrs.frozen
class Difference:
    """One thing that is done otherwise here."""

    name: str
    reason: str
    changes: Mapping[str, Change]
    """What is expected instead, by scenario."""


def alike(change: Change, *names: str) -> dict[str, Change]:
    """Make the same change for several scenarios."""
    return dict.fromkeys(names, change)


def floods(count: int) -> list[Output]:
    """Write the messages of the scenarios that flood."""
    return [message("P1", {"i": number, "pad": "x" * 1000}) for number in range(count)]


def expected(scenario: Scenario, differences: Sequence[Difference]) -> list[Output]:
    """Say what is expected of a scenario, by these differences."""
    outputs = list(scenario.outputs)
    for difference in differences:
        change = difference.changes.get(scenario.name)
        if change is not None:
            outputs = change(scenario, outputs)
    return outputs


DIFFERENCES: Final[Sequence[Difference]] = (
    Difference(
        "an entry may end its process",
        "The later version of that host forbids process.exit to extensions. Here an exit while stopping is a stop that "
        "has worked (contract, states: `stopping`, exit → `stopped`), as in the earlier one.",
        alike(as_recorded_first, "exit3_stopping"),
    ),
    Difference(
        "a heartbeat has no event",
        "It is no transition (contract, rule 4 and the table of what is left on purpose).",
        alike(without(is_heartbeat), "context_shape", "heartbeat_keeps_alive", "sigstop_heartbeat"),
    ),
    Difference(
        "a start that is stopped is answered at once",
        "The spawn raises `StartupCancelledError` at once, and does not wait for the process's end (contract, states, "
        "and the table: always answered).",
        alike(moved_behind("st1", "s1"), "fail_while_stopping_from_starting", "stop_while_starting_slow_import"),
    ),
    Difference(
        "nothing that was sent before an end is lost",
        "Messages sent before an end, and by the clean-up function, are delivered; what waits then does not keep "
        "`complete` from being heard either (contract, rule 5 and the table: kept, delivered).",
        {
            "cleanup_on_complete": in_addition(message("P1", "from cleanup")),
            "message_flood_100_then_complete": in_addition(*floods(100)),
            "message_flood_then_complete": both(
                at_the_end_of("P1", {"state": "completed", "exitReason": "completed", "error": None}),
                in_addition(*floods(5000)),
            ),
        },
    ),
    Difference(
        "a result is kept",
        "`complete(result)` has it in the terminal event (contract, the table: kept).",
        {"ready_then_complete": at_the_end_of("P1", {"result": {"ignored": "result"}})},
    ),
    Difference(
        "a payload is checked where it is sent",
        "The sender gets a `PayloadError` (contract, messages), and an entry that does not catch it has failed. There "
        "the host drops the message, and nobody hears of that.",
        {"limits_child_messages": replaced(is_message({"ok": True}), event("P1", "failed", "running", **FAILED))},
    ),
    Difference(
        "what breaks the protocol ends its process",
        "A frame that is no object is a broken frame, and the process fails (contract, states). There the host ignores "
        "it.",
        {"malformed_ipc_null": replaced(is_message("still here"), event("P1", "failed", "running", **FAILED))},
    ),
    Difference(
        "a process that closes its control lane ends",
        "It is killed when it is still alive 0.5 s later, and has failed (contract, states). There it is noticed at "
        "the next stop, and the process lives on.",
        {
            "disconnect_running": instead(
                *STARTED_AND_LEFT,
                event("P1", "failed", "running", **FAILED),
                answer("g1", None),
                answer("st1", {"$js": "undefined"}),
            )
        },
    ),
    Difference(
        "the environment is an allow-list",
        "What is not named is not leaked (contract, the table), so nothing of the host's own is there. Nor are the "
        "reference's switch and channel, and Node is not Bun.",
        {
            "env_and_stdio": replaced(
                is_any_message,
                message(
                    "P1",
                    {
                        "argvTail": [],
                        "secret": None,
                        "kept": None,
                        "hasChannelFd": False,
                        "ser": None,
                        "spindle": "undefined",
                        "fetch": "function",
                        "bun": "undefined",
                    },
                ),
            )
        },
    ),
    Difference(
        "entries lie anywhere under the root",
        "They need not be under dist/ (contract, spawn options), and `./` in front changes nothing.",
        {
            "entry_dot_slash": instead(*STARTED_AND_LEFT),
            "entry_not_dist": instead(*begins("P1", "s1", entry="src/entry.js", kind="src/entry.js")),
        },
    ),
    Difference(
        "keys are compared as tuples",
        "Two pairs of kind and key that look alike once they are joined are two (contract, dedupe): the second spawn "
        "succeeds, and the third replaces the second process, with its grace period.",
        {
            "key_colon_collision": instead(
                *begins("P1", "s1", kind="b", key="c:d"),
                *begins("P2", "s2", kind="b:c", key="d"),
                event("P2", "stopping", "running", kind="b:c", key="d"),
                event("P2", "stopped", "stopping", kind="b:c", key="d", exitReason="replaced"),
                *begins("P3", "s3", kind="b:c", key="d"),
                answer("l1", [info("P1", kind="b", key="c:d"), info("P3", kind="b:c", key="d")]),
            )
        },
    ),
    Difference(
        "a replaced process has its grace period",
        "It is killed when that is over, and not at once (contract, the table: grace period first), and the error says "
        "so.",
        {"replace_stopping": at_the_end_of("P1", {"error": True})},
    ),
    Difference(
        "what runs entries is looked for before anything is touched",
        "Options and entry are checked before the old process is touched (contract, dedupe), and a JavaScript entry "
        "needs something that runs it. There the old process is gone when the new one cannot be launched.",
        {
            "replace_then_launch_fails": both(
                without(is_end_of("P1")), replaced(is_answer_to("l1"), answer("l1", [info("P1", key="x")]))
            )
        },
    ),
    Difference(
        "a terminal event is of the moment at which the process is gone",
        "It follows the reaping (contract, rule 1 and the table), so its time is not that of what was said last.",
        alike(at_the_end_of("P1", {"at": "<P1.end>"}), "onstop_unsubscribe", "stop_ended"),
    ),
    Difference(
        "an unloaded worker starts nothing",
        "A spawn that is in flight then cannot come alive (contract, the table), and is answered. Nothing more can be "
        "asked.",
        {"spawn_during_unload_race": instead(refusal("s1"))},
    ),
    Difference(
        "a filter is compared as given",
        "`list` trims no user's id, and a blank one is nobody's (contract, list).",
        {
            "list_filters": both(
                replaced(is_answer_to("l_user_pad"), answer("l_user_pad", [])),
                replaced(is_answer_to("l_user_blank"), answer("l_user_blank", [])),
            )
        },
    ),
    Difference(
        "JSON has no undefined",
        "A field that is undefined is absent on the wire, and a list has items and no properties (contract, messages), "
        "so that there is nothing to refuse.",
        alike(
            instead(*STARTED_AND_LEFT),
            "limits_kind_undefined",
            "limits_metadata_undefined",
            "limits_payload_array_extra_prop",
        ),
    ),
    Difference(
        "JSON has no objects but plain ones",
        "What the recording shows as `{}` was none, and was dropped there. On the wire it is JSON-safe (contract, "
        "messages), and is delivered.",
        {"limits_messages": replaced(is_message({"len": 3}), message("P1", {"len": 2}), message("P1", {"len": 3}))},
    ),
    Difference(
        "what cannot be delivered is told to its sender",
        "A worker hears of a send to a process that has ended, is another user's or never was (contract, additions). "
        "There it is logged, and the worker waits in vain.",
        {
            "disconnect_running": replaced(
                is_answer_to("st1"), undelivered("P1"), {"type": "response", "requestId": "st1"}
            ),
            "limits_messages": in_addition(*[undelivered("P1")] * 3),
            "send_unknown": in_addition(undelivered("no-such-id")),
            "send_wrong_user": in_addition(undelivered("P1"), undelivered("P1")),
        },
    ),
    Difference(
        "a message may be large",
        "A frame has up to 16 MiB (contract, messages), so that this one arrives. There the process ends before all of "
        "it has been written.",
        {
            "big_message_then_complete": both(
                at_the_end_of("P1", {"state": "completed", "exitReason": "completed", "error": None}),
                in_addition(message("P1", "B" * 4 * 1024 * 1024)),
            )
        },
    ),
    Difference(
        "a user's worker has a user",
        "A worker is opened with a user or is operator-scoped (contract, scopes). With a blank one it cannot be "
        "opened, and so nothing can be asked.",
        {"user_scope_no_owner": instead()},
    ),
    Difference(
        "nobody waits for what cannot come",
        "The player does not wait for messages of a process that was never spawned. There such a wait went on until "
        "the first process had timed out.",
        {
            "metadata_empty_and_array": both(
                without(is_end_of("P1")), replaced(is_answer_to("l1"), answer("l1", [info("P1", metadata={})]))
            )
        },
    ),
    Difference(
        "a transition has its own time",
        "`at` of `stopping` is when it began to stop, and not when it beat last (contract, rule 4 and the table).",
        alike(
            with_own_time_of_stopping,
            "complete_during_stopping_async",
            "dup_key_rejected_while_stopping",
            "heartbeat_during_stopping",
            "stop_no_handler",
            "exit3_stopping",
            "fail_while_stopping_from_starting",
            "list_filters",
            "onstop_unsubscribe",
            "replace_stopping",
            "send_after_sigkill_race",
            "stop_async_handler_rejects",
            "stop_handler_fails",
            "stop_handler_never_exits",
            "stop_handler_no_reason",
            "stop_handler_throws",
            "stop_reason_nonstring_and_empty",
            "stop_two_handlers_first_throws",
            "stop_user_scope_ignores_userid",
            "stop_while_starting_slow_import",
            "stop_wrong_user",
        ),
    ),
)
