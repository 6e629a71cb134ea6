"""A child that speaks protocol 1 by hand: it beats, echoes messages, completes by "done", and ends at a stop.

Started with the descriptors of its control lane and its messages lane, and the seconds between two beats.
"""

import json
import os
import select
import sys


def read_exactly(descriptor, count):
    data = b""
    while len(data) < count:
        more = os.read(descriptor, count - len(data))
        if not more:
            os._exit(0)  # the host is gone
        data += more
    return data


def read_frame(descriptor):
    return json.loads(read_exactly(descriptor, int.from_bytes(read_exactly(descriptor, 4), "big")))


def write_frame(descriptor, value):
    body = json.dumps(value).encode()
    data = len(body).to_bytes(4, "big") + body
    while data:
        data = data[os.write(descriptor, data) :]


def main():
    control, messages, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    init = read_frame(control)
    assert init["type"] == "init", init
    assert init["protocol"] == 1, init
    write_frame(control, {"type": "ready"})
    write_frame(messages, {"payload": init.get("payload"), "id": init["processId"], "entry": init["entry"]})
    sent = 1
    while True:
        readable, _, _ = select.select([control, messages], [], [], pause)
        write_frame(control, {"type": "heartbeat"})
        if control in readable:
            frame = read_frame(control)
            assert frame["type"] == "stop", frame
            last = {"type": "stopped", "messages": sent}
            break
        if messages in readable:
            message = read_frame(messages)
            if message == "done":
                last = {"type": "complete", "result": {"echoed": sent - 1}, "messages": sent}
                break
            if message == "be quiet":
                select.select([control], [], [])
                continue
            write_frame(messages, {"got": message})
            sent += 1
    write_frame(control, last)
    write_frame(control, {"type": "exiting", "messages": sent, "code": 0})


main()
