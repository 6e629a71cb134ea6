"""Recorded entries in Python, as `def`; `translations.py` says in which scenarios.

A JavaScript process lives on after its entry has returned, and a Python one does while a handler is registered; where
there is none, it waits in `receive`.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading

from spindle_trio.child import BlockingProcessContext, StopNotice


def echo(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_message(lambda message: process.send({"echo": message}))
    process.on_stop(lambda notice: process.complete())


def deaf(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_stop(lambda notice: None)


def big_message(process: BlockingProcessContext) -> None:
    process.ready()
    process.send("B" * 4194304)
    process.complete()


def lingers(process: BlockingProcessContext) -> None:
    atexit.register(threading.Event().wait, 1.5)
    process.ready()
    process.on_message(lambda message: process.complete())


def shows_its_context(process: BlockingProcessContext) -> None:
    process.ready()
    process.send(
        {
            "processIdType": type(process.process_id).__name__,
            "entry": process.entry,
            "kind": process.kind,
            "key": process.key,
            "payload": process.payload,
            "metadata": process.metadata,
            "userId": process.user_id,
            "readyReturns": str(process.ready()),
            "heartbeatReturns": str(process.heartbeat()),
            "onStopReturns": type(process.on_stop(lambda notice: None)).__name__,
        }
    )


def shows_a_minimal_context(process: BlockingProcessContext) -> None:
    process.ready()
    process.send(
        {
            "hasPayload": process.has_payload,
            "payloadIs": str(process.payload),
            "kind": process.kind,
            "userId": process.user_id,
            "hasKey": process.key is not None,
            "hasMetadata": process.metadata is not None,
        }
    )
    process.receive()


def shows_its_surroundings(process: BlockingProcessContext) -> None:
    process.ready()
    process.send(
        {
            "argvTail": sys.argv[1:],
            "secret": os.environ.get("AUTH_SECRET"),
            "kept": os.environ.get("HARNESS_KEEP"),
        }
    )
    print("child stdout line", flush=True)
    print("child stderr line", file=sys.stderr)
    process.receive()


def exits_0_running(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.1)
    os._exit(0)


def exits_0_starting(process: BlockingProcessContext) -> None:
    process.sleep(0.1)
    os._exit(0)


def exits_3_running(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.1)
    sys.exit(3)


def exits_3_starting(process: BlockingProcessContext) -> None:
    process.sleep(0.1)
    sys.exit(3)


def exits_3_stopping(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_stop(lambda notice: sys.exit(3))


def fails_before_ready(process: BlockingProcessContext) -> None:
    process.fail("nope")


def fails_when_stopped(process: BlockingProcessContext) -> None:
    process.on_stop(lambda notice: process.fail("stop -> fail"))


def loops(process: BlockingProcessContext) -> None:
    process.ready()
    while True:
        pass


def sends_what_is_too_much(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.02)
    process.send("a" * 262144)
    for refused in ("b" * 262145, {1}, [float("inf")], {"ok": True}):
        process.send(refused)


def fails_at_length(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.02)
    process.fail("e" * process.payload)  # type: ignore[operator]  # a number


def tells_lengths(process: BlockingProcessContext) -> None:
    def tell(message: object) -> None:
        process.send({"len": len(message if isinstance(message, str) else json.dumps(message))})

    process.ready()
    process.on_message(tell)


def holds(process: BlockingProcessContext) -> None:
    if process.payload != "hold":
        process.ready()
    process.on_stop(lambda notice: None)


def sends_before_ready(process: BlockingProcessContext) -> None:
    process.send("first")
    process.ready()
    process.send("second")
    process.receive()


def floods_100(process: BlockingProcessContext) -> None:
    process.ready()
    for number in range(100):
        process.send({"i": number, "pad": "x" * 1000})
    process.complete()


def floods_5000(process: BlockingProcessContext) -> None:
    process.ready()
    for number in range(5000):
        process.send({"i": number, "pad": "x" * 1000})
    process.complete()


def shows_its_metadata(process: BlockingProcessContext) -> None:
    process.ready()
    process.send({"metadata": process.metadata})
    process.receive()


def completes_when_told(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_message(lambda message: process.complete({"ignored": "result"}))


def fails_with_blanks(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.05)
    process.fail("   ")


def fails_with_padding(process: BlockingProcessContext) -> None:
    process.ready()
    process.sleep(0.05)
    process.fail("  padded  ")


def ready_twice(process: BlockingProcessContext) -> None:
    process.ready()
    process.ready()
    process.sleep(0.05)
    process.ready()
    process.receive()


def completes(process: BlockingProcessContext) -> None:
    process.ready()
    process.complete()


def fails_in_its_stop_handler(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_stop(lambda notice: process.fail("cannot stop nicely"))


def sees_the_stop(process: BlockingProcessContext) -> None:
    process.ready()
    process.on_stop(lambda notice: process.send("stop seen"))


def tells_the_reason(process: BlockingProcessContext) -> None:
    def tell(notice: StopNotice) -> None:
        process.send({"keys": ["reason"], "reason": "undefined" if notice.reason is None else notice.reason})
        process.complete()

    process.ready()
    process.on_stop(tell)


def raises_in_its_stop_handler(process: BlockingProcessContext) -> None:
    def stop(notice: StopNotice) -> None:
        raise RuntimeError("stop handler kaboom")

    process.ready()
    process.on_stop(stop)


def waits_for_two_stops(process: BlockingProcessContext) -> None:
    notices = []

    def stop(notice: StopNotice) -> None:
        process.send({"r": notice.reason or "undefined"})
        notices.append(notice)
        if len(notices) == 2:
            process.complete()

    process.ready()
    process.on_stop(stop)


def has_two_stop_handlers(process: BlockingProcessContext) -> None:
    def first(notice: StopNotice) -> None:
        process.send("a")
        raise RuntimeError("a failed")

    def second(notice: StopNotice) -> None:
        process.send("b")
        process.complete()

    process.ready()
    process.on_stop(first)
    process.on_stop(second)


def sends_default(process: BlockingProcessContext) -> None:
    process.ready()
    process.send("default")
    process.receive()


def sends_run(process: BlockingProcessContext) -> None:
    process.ready()
    process.send("from run")
    process.receive()
