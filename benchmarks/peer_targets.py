"""What the peers' children run. It imports nothing: a peer's child does as little as ours."""


def say_ready(connection):
    """Report as soon as this runs, and live on until the other end is closed or the process is killed."""
    connection.send_bytes(b"r")
    connection.poll(None)


def say_ready_under_trio(connection):
    """Do the same from a Trio run, as the child of somebody who wants one."""
    import trio

    async def report():
        connection.send_bytes(b"r")
        await trio.sleep_forever()

    trio.run(report)


def flood(connection):
    """Send as many messages of 100 bytes as were asked for, each time it is asked."""
    text = "x" * 98
    while True:
        for _ in range(connection.recv()):
            connection.send(text)


def do_nothing():
    """Be called, and return."""


def echo(value):
    """Return what was given."""
    return value
