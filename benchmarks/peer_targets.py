"""The code of the peers' children. It imports nothing: a peer's child does as little as ours."""


def say_ready(connection):
    """Report at once, and live on until the other end is closed or the process is killed."""
    connection.send_bytes(b"r")
    connection.poll(None)


def say_ready_under_trio(connection):
    """Do the same from a Trio run."""
    import trio

    async def report():
        connection.send_bytes(b"r")
        await trio.sleep_forever()

    trio.run(report)


def flood(connection):
    """Send the requested number of 100-byte messages, for each request."""
    text = "x" * 98
    while True:
        for _ in range(connection.recv()):
            connection.send(text)


def send_back(connection):
    """Send back what comes, until the other end is closed."""
    while True:
        try:
            value = connection.recv()
        except EOFError:
            return
        connection.send(value)


def do_nothing():
    """Do nothing."""


def echo(value):
    """Return the argument."""
    return value


def work(seconds):
    """Compute for so many seconds of processor time."""
    from time import thread_time

    end = thread_time() + seconds
    while thread_time() < end:
        pass


def hang(_):
    """Never return."""
    while True:
        pass


def own_pid(_):
    """Tell which process this is."""
    import os

    return os.getpid()
