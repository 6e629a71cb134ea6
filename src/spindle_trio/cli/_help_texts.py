"""What `--help` says below the arguments."""

from __future__ import annotations

from typing import Final

RUN: Final = """\
Each line of standard input is sent to the process as a message: as JSON where it parses, as a string otherwise.
The first Ctrl-C or SIGTERM stops the process gracefully, the second kills it.

With --restart, a process that has been ready is followed by another one after such an end, first after half a second,
then after twice as long each time, half a minute at most. Thirty seconds of running end a row of failures.

exit status:
  0    the process completed, or was stopped
  1    it failed, or its output could not be written
  2    it was refused: a bad option or entry
  124  it timed out
  130  Ctrl-C came, however the process then ended
  141  the reader of its output closed the pipe
  143  SIGTERM came, however the process then ended
"""

CALL: Final = """\
The process is stopped once the answer, or the last item, is there. The first Ctrl-C or SIGTERM cancels the call and
stops the process gracefully, the second kills it. A handler that goes on for a second after its call's timeout is
killed, and its stacks are shown. A handler that computes has to send heartbeats, or needs --heartbeat-timeout inf.

exit status:
  0    the call was answered, or the stream has ended
  1    the method failed, or its answer could not be written
  2    it was refused: a bad option, entry or method
  3    the process ended before it had answered, or failed to start
  124  the time was over, for the answer or for the start
  130  Ctrl-C came
  141  the reader of the output closed the pipe
  143  SIGTERM came
"""
