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

EXEC: Final = """\
The program runs in this folder, and with it ends all that it has started. A sandbox lets it read what programs need
(libraries and the like), write to a temporary folder of its own, and reach what --read, --write and a preset name.
The first Ctrl-C or SIGTERM stops the program gracefully, by SIGTERM; the second kills it.

examples:
  spindle-trio exec --memory 512M --time 30 -- make test
  spindle-trio exec --read . --write out --offline -- python3 convert.py

exit status:
  0    the program exited with 0, or was stopped
  1    it failed: it exited with another code, or by a signal, or a limit ended it
  2    it was refused: a bad option, or no such program
  124  its time was over
  130  Ctrl-C came, however the program then ended
  141  the reader of its output closed the pipe
  143  SIGTERM came, however the program then ended
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

UP: Final = """\
the file, in which only entries or commands are required; the order of its services is that of their start:
  root = "."                       folder of the entries, relative to the file (default: the file's folder)
  strategy = "one_for_one"         what restarts after a failure: one_for_one, one_for_all or rest_for_one
  restart = "on_failure"           never, on_failure or always; or a table with the fields of RestartPolicy, such as
                                   { when = "always", delay = 0.5, max_delay = 30, give_up_after = 8 }; inf: never

  [services.db]                    a table for each service
  entry = "db.py"                  path of the entry file, below the root; or instead of it a program:
  command = ["my-server", "-v"]    the program, by its name or path, and its arguments
  ready = "notify"                 when a program is ready: started (the default), notify, or a table:
                                   { tcp = 5432 }, { http = "http://127.0.0.1:8000/" } or { line = "listening on" }
  stop_signal = "SIGINT"           how a program is asked to stop (default: SIGTERM)
  payload = { size = 3 }           any JSON value, passed to the entry
  environment = { PORT = "5432" }  variables, added to the usual ones
  arguments = ["--fast"]           arguments of the entry
  folder = "data"                  where it runs, below the root (default: the root)
  key = "main"                     key of the process (default: none)
  restart = "always"               as above, for this service: a word, or { when = "always", max_lifetime = 3600 }
  startup_timeout = 15             seconds allowed until ready()
  heartbeat_timeout = 15           seconds allowed between heartbeats; inf: no watchdog
  grace_period = 5                 seconds allowed to end after a stop, before the kill
  limits = { memory = "512M" }     also pids, cpus, cpu_seconds, open_files, file_bytes and run_seconds
  restart_above = { memory = "1G" }  restarted gracefully when it uses more
  sandbox = "read-only"            read-only, workspace-write or offline; or a table with read, write, deny, network
                                   and subprocesses

A line of output has the time, the service, and a sign: | for its stdout, ! for its stderr, > for a message,
* for an event. Where stdout is a terminal each service has a colour, unless NO_COLOR is set.
The first Ctrl-C or SIGTERM stops the services in reverse order, the second kills them.

exit status:
  0    all services completed, or were stopped
  1    one failed and was not to be restarted, or gave up, or the output could not be written
  2    the file or a service was refused; nothing of it is left
  124  as 1, where the last end was a missed deadline
  130  Ctrl-C came, however the services then ended
  141  the reader of the output closed the pipe
  143  SIGTERM came, however the services then ended
"""
