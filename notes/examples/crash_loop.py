"""A host program: a service whose processes all crash gives up, and its error says what the last one died of.

    python notes/examples/crash_loop.py

Each failure is followed by a longer wait. `test_crash_loop.py` has the same in a test, in virtual time.
"""

from __future__ import annotations

from pathlib import Path

import trio

import spindle_trio as spindle

HERE = Path(__file__).parent


async def main() -> None:
    policy = spindle.RestartPolicy(delay=0.1, factor=2, jitter=0, give_up_after=4)
    async with spindle.open_host() as host, host.open_worker("examples", root=HERE, user_id="ada") as worker:
        try:
            async with spindle.open_service(worker, "needs_database.py", key="db", restart=policy) as service:
                service.on_event(show)
                await trio.sleep_forever()  # the work that needs the service; giving up cancels it
        except spindle.ServiceGaveUpError as error:
            print(error)
            if error.post_mortem is not None:  # None: the last start was refused, so there was no process
                print(error.post_mortem)


def show(event: spindle.ServiceEvent) -> None:
    if event.kind == "restart_scheduled":
        print(f"generation {event.generation} has failed; the next one starts in {event.seconds:.1f} s")


if __name__ == "__main__":
    trio.run(main)
