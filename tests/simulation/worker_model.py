"""The oracle's model of one worker: who holds which key, who waits, what each call comes to.

A `WorkerModel` is told what the log shows (acts, launches), and knows when commands are given. What the host does by
itself are *steps*: taking in what a child has said, acting on a deadline, letting a command take effect. `steps()`
lists those that may come next, at this instant; each says what the log has to show for it. `oracle` tries their orders.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from simulation.lane_model import Outcome, Reading
from simulation.model import OUTCOME, Proc, Refuted, Told
from simulation.scenario import (
    Call,
    Get,
    List,
    Place,
    ReleaseKey,
    Send,
    Spawn,
    Stop,
    Stream,
    WaitIdle,
    kind_of,
    place_of,
    user_of,
)
from simulation.worker_state import CALLING, Step, WorkerState

CLOSED = ("ClosedResourceError",)
BROKEN = ("BrokenResourceError",)
TIMED_OUT = ("CallTimeoutError",)


class WorkerModel(WorkerState):
    """One worker. `told` collects what the log has to show."""

    def take(self, step: Step) -> list[Told]:
        """Take a step; returns what the log has to show next."""
        what, number = step
        told: list[Told] = []
        match what:
            case "unload":
                self._unload(number, told)
            case "kill":
                self._kill_all(number, told)
            case "begin":
                self._begin(number, told)
            case "cancel":
                self._cancel(number, told)
            case "call":
                self._call(number)
            case "time out":
                self._give_up_call(number, TIMED_OUT, told)
            case "receive":
                self._receive(number, told)
            case "run out":
                self._run_out(number, told)
            case "be idle":
                self._resolve(number, ("idle",))
            case "leave":
                self._give_up_call(number, ("left",), told)
            case "take turn":
                self._take_turn(number, told)
            case "refuse":
                self._leave_queue(number)
                self._resolve(number, CLOSED)
            case "give up":
                self._give_up(number, told)
            case "disown":
                self.disowned -= {number}
                self.keys.give_up(number, give_back=True)
            case "put":
                self._resolve(number, ("returned",) if self._target(number).exit is None else BROKEN)
            case _:
                self._tell(step, told)
        return told

    def _tell(self, step: Step, told: list[Told]) -> None:
        """Have a process take in something."""
        what, number = step
        process = self.live[number]
        match what:
            case "exit":
                before = process.state
                process.exited(self.now, told)
                self._answer_if_ready(process, before)
                self._answer_calls(process)
                self._ended(process)
            case "listen":
                self._hear(process, told)
            case "nonsense":
                before = process.state
                process.take_nonsense(self.now, told)
                self._answer_if_ready(process, before)
            case "hear calls":
                process.hear_calls(self.now, told)
            case "settle calls":
                process.calls.settle(self.now)
            case "miss calls":
                process.miss_calls_lane(self.now, told)
            case _:
                before = process.state
                is_abandoned = process.judge(self.now, told)
                self._answer_if_ready(process, before)
                if is_abandoned:
                    process.conclude(self.now, told)
                    self._ended(process)
        self._answer_calls(process)

    # What the log shows.

    def see(self, what: str, number: int, detail: object) -> list[Told] | None:
        """Take in a line of the log; `None` if it cannot come now. Returns what has to come right after it."""
        told: list[Told] = []
        if what == "outcome":
            if self.phases.get(number) != "over":
                return None
            if isinstance(self.commands[number], Spawn) and self.outcomes[number][1][0] == "returned":
                self.handles |= {number}
            return told
        process = self.live.get(number)
        if process is None:
            return told if what == "died" and self.started[number].is_killed else None
        match what:
            case "launching":
                if process.launch == "asked for":
                    process.launch = "launching"
                elif process.launch != "called off":
                    return None
            case "launched":
                self._launched(process, told)
            case "launch failed" | "unlaunched":
                if not self._end_unlaunched(process, what == "launch failed", told):
                    return None
            case "died":
                process.exit = "killed by SIGKILL"
            case "act":
                assert isinstance(detail, tuple)
                process.act(detail, self.now)
        return told

    def _launched(self, process: Proc, told: list[Told]) -> None:
        process.launch = "launched"
        if process.end is not None:
            process.kill(self.now, told)
        elif process.state == "stopping":
            process.ask(self.now, self.stops)

    def _end_unlaunched(self, process: Proc, has_failed: bool, told: list[Told]) -> bool:
        process.launch = "failed" if has_failed else "called off"
        if process.end is None:
            if has_failed:
                process.settle("launch fails", "OSError: no more processes")
            elif process.state == "stopping":
                process.settle("exit", None)
            elif process.startup_at <= self.now:
                process.settle("startup deadline", f"not ready within {process.spawn.startup_timeout:g} s")
            else:
                return False
        process.conclude(self.now, told)
        self._ended(process, "LaunchError" if has_failed else None)
        return True

    # Commands.

    def _begin(self, number: int, told: list[Told]) -> None:
        command = self.commands[number]
        self.phases[number] = "begun"
        match command:
            case Spawn():
                self._spawn(number, command, told)
            case List():
                self._resolve(number, CLOSED if self.is_closed else ("listed", *self._listed(command)))
            case Get():
                process = self.live.get(command.target)
                self._resolve(number, CLOSED if self.is_closed else ("got", process and process.state))
            case Stop() | Send():
                self._reach(number, command, told)
            case ReleaseKey():
                user = (command.user_id or "").strip() or None
                self._resolve(number, CLOSED if self.is_closed else self._give_up_key(command.target, user))
            case Call():
                self._begin_call(number, command)
            case WaitIdle():
                if command.target in self.handles:
                    self.phases[number] = "idling"
                else:
                    self._resolve(number, ("no handle",))
            case _:
                if command.target not in self.handles:
                    self._resolve(number, ("no handle",))
                else:
                    self.phases[number] = "watching"
                    self._tell_watchers(self.started[command.target])

    def _listed(self, wanted: List) -> Iterable[tuple[int, str]]:
        user = wanted.user_id if self.plan.user_id is None else None
        for process in self.live.values():
            pairs = ((user, process.user), (wanted.kind, process.kind), (wanted.key, process.key))
            if all(value in (None, own) for value, own in pairs) and wanted.state in (None, process.state):
                yield process.number, process.state

    def _reach(self, number: int, command: Stop | Send, told: list[Told]) -> None:
        """Stop a process, or send to it, if it may be."""
        user = command.user_id
        if isinstance(command, Stop):
            user = (user or "").strip() or None
        process = self.live.get(command.target)
        if self.is_closed:
            self._resolve(number, CLOSED)
        elif process is None:
            outcome: Outcome = BROKEN
            if isinstance(command, Stop):
                outcome = ("returned",) if command.keep_key else self._give_up_key(command.target, user)
            self._resolve(number, outcome)
        elif self.plan.user_id is None and user not in (None, process.user):
            self._resolve(number, ("ProcessAccessError",))
        elif isinstance(command, Stop):
            self.phases[number] = "watching"
            self._stop(process, command.reason or None, None, told, grace=command.grace, keeps_key=command.keep_key)
        elif process.launch == "launched":
            self._resolve(number, ("returned",) if process.exit is None else BROKEN)
        else:
            self.phases[number] = "sending"

    def _give_up_key(self, target: int, user: str | None) -> Outcome:
        """Give up the key of an ended process, if it is kept and the user may."""
        place = self.keys.place_of(target)
        if place is not None and self.plan.user_id is None and user not in (None, place[0]):
            return ("ProcessAccessError",)
        self.keys.give_up(target)
        return ("returned",)

    def _stop(
        self,
        process: Proc,
        reason: str | None,
        host_reason: str | None,
        told: list[Told],
        *,
        grace: float | None,
        may_kill: bool = True,
        keeps_key: bool = False,
    ) -> None:
        """Ask it to stop within a grace period, its own or another one; if that is 0, kill it instead."""
        process.is_freeing |= not keeps_key
        was_starting, kills = process.state == "starting", may_kill and grace == 0
        if process.stop(self.now, reason, host_reason, told, None if kills else grace):
            if not kills:
                process.ask(self.now, self.stops)
            if was_starting:
                self._answer(process.number, ("StartupCancelledError",))
        if kills and (process.state == "stopping" or process.end is not None):
            process.settle("kill", "killed without a grace period")
            process.kill(self.now, told)

    def _replace(self, process: Proc, successor: int, told: list[Told]) -> None:
        grace = self.scenario.spawn(successor).replace_grace
        self._stop(process, "replaced", "replaced", told, grace=grace)

    def _cancel(self, number: int, told: list[Told]) -> None:
        self.cancelled[number] = True
        phase = self.phases.get(number)
        if phase in (*CALLING, "reading"):
            self._give_up_call(number, ("cancelled",), told)
        elif phase is None or phase in ("watching", "sending", "idling"):
            self._resolve(number, ("cancelled",))
        elif phase == "queued":
            self.phases[number] = "called off"

    # Calls.

    def _begin_call(self, number: int, command: Call) -> None:
        if self.is_closed:
            self._resolve(number, CLOSED)
        elif command.target in self.handles or command.target in self.live:
            self._call(number)
        else:
            self._resolve(number, BROKEN)

    def _call(self, number: int) -> None:
        """Send a call, or refuse it, or let it wait until the process is ready or gone."""
        command = self.scenario.call(number)
        process = self.started[command.target]
        calls = process.calls
        self.phases[number] = "refused"
        if process.ended_at is not None or (process.end is None and process.state == "stopping"):
            self._resolve(number, ("ProcessLostError", False, process.state))
        elif process.end is None and process.state == "starting":
            self.phases[number] = "calling"
        elif process.end is None and process.exit is None:
            if not calls.is_taken:
                self._resolve(number, ("UnknownMethodError",))
                return
            calls.open(self.now)
            room = calls.room
            if calls.has_been_closed:
                pass
            elif self.scenario.is_narrow and room is not None and len(calls.begun) == room + 2:
                self.phases[number] = "crowded"  # for good: one waits already, and nothing moves
            else:
                calls.begin(number)
                self.phases[number] = "called"
                self._check_sent(number, command)
                if isinstance(command, Stream):
                    self.phases[number] = "reading"
                    read_at = self.now + (command.reads[0] if command.reads else 0.0)
                    calls.streams[number] = Reading(command.window, command.window, command.deadline, read_at)
                    if command.kills:  # its reader may be away when its time is over
                        calls.watch(number, command.deadline)

    def _check_sent(self, number: int, command: Call) -> None:
        """Look whether the process has got the call now, once, with the time that is left."""
        if self.started[command.target].part.call_room is not None:
            return
        match self.log.calls.get(number):
            case [(command.target, at, left, window)] if (
                at == self.now
                and abs(left - (command.deadline - at)) < 1e-4
                and window == (command.window if isinstance(command, Stream) else None)
            ):
                pass
            case got:
                left = command.deadline - self.now
                raise Refuted(f"at {self.now} call {number} should be sent once, with {left} s left; it was: {got}")

    def _give_up_call(self, number: int, outcome: Outcome, told: list[Told]) -> None:
        """Let a caller go on: its time is over, or it was cancelled. What has arrived is taken in before."""
        command = self.scenario.call(number)
        process = self.started[command.target]
        calls = process.calls
        if self.phases[number] == "called":
            if not self._stop_caring(number, process, told) and outcome == TIMED_OUT:
                self._answer_calls(process)
        elif self.phases[number] == "reading" and calls.streams[number].over is None and number not in calls.given_up:
            self._stop_caring(number, process, told)
        if self.phases[number] != "over":
            self._resolve(number, outcome)
        told.append(Told(number, OUTCOME))  # before anything else happens
        self._answer_calls(process)

    def _stop_caring(self, number: int, process: Proc, told: list[Told]) -> bool:
        """Cancel a call, unless what has arrived ends it, and say whether it was cancelled."""
        if process.ended_at is not None:
            return False
        process.hear_calls(self.now, told)
        is_cancelled = process.calls.give_up(number, self.now, kills=self.scenario.call(number).kills)
        if is_cancelled:
            self._tell_cancel(number, process)
        return is_cancelled

    def _receive(self, number: int, told: list[Told]) -> None:
        """Have the reader of a stream receive an item, or else what has ended the stream."""
        stream, process = self.reading(number), self.started[self.call_target(number)]
        if not stream.held:
            outcome = TIMED_OUT if stream.is_timed_out else stream.over
            assert outcome is not None, "there is something to receive"
            self._resolve(number, outcome)
            told.append(Told(number, OUTCOME))
            return
        items, done = self.log.items.get(number, []), stream.done
        if items[done : done + 1] != [(self.now, stream.held[0])]:
            raise Refuted(f"stream {number} should give {stream.held} from {self.now} on after {done}; it gave {items}")
        since, credit, credited = stream.since + 1, stream.credit, stream.credited
        if 3 * since >= stream.window and stream.over is None and number not in process.calls.given_up:
            if process.exit is None and not process.has_closed_control:
                given = self.log.credits.get(number, [])
                if given[credited : credited + 1] != [(self.now, since)]:
                    raise Refuted(f"stream {number} should have credit for {since} at {self.now}; it got {given}")
                credited += 1
            credit, since = credit + since, 0
        reads = self.scenario.stream(number).reads
        process.calls.streams[number] = attrs.evolve(
            stream,
            held=stream.held[1:],
            done=done + 1,
            since=since,
            credit=credit,
            credited=credited,
            read_at=self.now + (reads[done + 1] if done + 1 < len(reads) else 0.0),
        )

    def _run_out(self, number: int, told: list[Told]) -> None:
        """Have the time of a stream be over. What is there is still received."""
        process = self.started[self.call_target(number)]
        self._stop_caring(number, process, told)
        stream = self.reading(number)
        if stream.over is None:
            process.calls.streams[number] = attrs.evolve(stream, is_timed_out=True)
        self._receive(number, told)
        self._answer_calls(process)

    def _tell_cancel(self, number: int, process: Proc) -> None:
        if process.exit is None and not process.has_closed_control and process.part.call_room is None:
            cancels = self.log.cancels.get(number)
            if cancels != [self.now]:
                raise Refuted(f"at {self.now} call {number} should be cancelled, once; it was at {cancels}")
            process.calls.told = (*process.calls.told, number)

    def _answer_calls(self, process: Proc) -> None:
        """Tell callers what has come of their calls, unless they have gone on."""
        outcomes, process.calls.outcomes = process.calls.outcomes, ()
        for number, outcome in outcomes:
            if self.phases[number] == "called":
                self._end_call(number, outcome)

    def _end_call(self, number: int, outcome: Outcome) -> None:
        """Let a call end, whose caller may be about to go on at this very instant, and then does that."""
        going: list[Outcome] = [("cancelled",)] if self.commands[number].cancelled_at <= self.now else []
        if self.phases[number] != "called" and self.call_ends(number) <= self.now:
            going.append(TIMED_OUT)
        shown = self.outcomes.get(number)
        self._resolve(number, next((other for other in going if shown == (self.now, other)), outcome))

    def _lose_calls(self, process: Proc) -> None:
        """Tell all callers that a process has ended, and look whether it has got what it should have and no more."""
        process.calls.lose(process.state)
        self._answer_calls(process)
        for number, phase in tuple(self.phases.items()):
            if phase in ("calling", "refused", "crowded") and self.call_target(number) == process.number:
                self._end_call(number, ("ProcessLostError", False, process.state))
        for number, command in self.commands.items():
            if isinstance(command, Call) and command.target == process.number:
                if number in self.log.calls and number not in process.calls.begun:
                    raise Refuted(f"call {number} should not have been sent; it was: {self.log.calls[number]}")
                if number in self.log.cancels and number not in process.calls.told:
                    raise Refuted(f"call {number} should not have been cancelled; it was: {self.log.cancels[number]}")
        for number, stream in process.calls.streams.items():
            if len(self.log.credits.get(number, ())) != stream.credited:
                raise Refuted(f"stream {number} has got more credit than {stream.credited}: {self.log.credits[number]}")
        late = self.log.late.get(process.number)
        if late not in (None, (0, process.calls.late)):
            raise Refuted(f"process {process.number}: {process.calls.late} late answers; its statistics say {late}")

    # Spawning.

    def _spawn(self, number: int, command: Spawn, told: list[Told]) -> None:
        place = place_of(self.plan, command, number)
        if self.is_closed:
            self._resolve(number, CLOSED)
        elif not command.entry_exists:
            self._resolve(number, ("EntryError",))
        elif not user_of(self.plan, command):
            self._resolve(number, ("UserRequiredError",))
        elif command.successor_of is not None:
            assert place is not None, "only a spawn with a key succeeds"
            self._succeed(number, command.successor_of, place, told)
        elif place is not None and self.keys.holder(place) is not None:
            self._spawn_over(number, place, told)
        elif place is not None and (kept := self.keys.kept_at(place)) is not None:
            if command.replace_existing:
                self.keys.drop(place)
                self.keys.take(number, place)
                self._start(number, told)
            else:
                self._resolve(number, ("DuplicateKeyError", kept))
        elif self.keys.taken >= self.scenario.max_processes:
            self._resolve(number, ("ProcessLimitError",))
        else:
            self.keys.take(number, place)
            self._start(number, told)

    def _succeed(self, number: int, target: int, place: Place, told: list[Told]) -> None:
        kept = self.keys.place_of(target)
        if kept is not None and number in self.log.unknown:
            kept = None  # it has started, ended and kept its key since the id was looked up
        if kept is not None and kept[0] != place[0]:
            self._resolve(number, ("ProcessAccessError",))
        elif kept is not None and kept != place:
            self._resolve(number, ("SpawnRefusedError",))
        elif kept is None or self.keys.kept_at(place) != target:
            self._resolve(number, ("KeyLostError",))
        else:
            self.keys.succeed(number, target, place)
            self._start(number, told)

    def _spawn_over(self, number: int, place: Place, told: list[Told]) -> None:
        holder = self.keys.holder(place)
        assert holder is not None, "somebody has the key"
        if not self.scenario.spawn(number).replace_existing:
            shown = holder if holder in self.live else self.keys.process_before(holder)
            self._resolve(number, ("DuplicateKeyError", shown))
            return
        self.phases[number] = "queued"
        self.keys.wait(number, place)
        if holder in self.live:
            self._replace(self.live[holder], number, told)

    def _take_turn(self, number: int, told: list[Told]) -> None:
        if self.is_closed:
            self._release(number)
            self._resolve(number, CLOSED)
        else:
            self._start(number, told)

    def _start(self, number: int, told: list[Told]) -> None:
        command = self.scenario.spawn(number)
        process = Proc(
            number,
            command,
            user_of(self.plan, command),
            kind_of(command, number),
            self.now,
            self.scenario.grace_period,
            self.scenario.cancel_grace,
        )
        self.live[number] = self.started[number] = process
        self.phases[number] = "waiting"
        told.append(Told(number, "starting"))
        for heir in self.keys.heirs(number):
            self._replace(process, heir, told)

    def _give_up(self, number: int, told: list[Told]) -> None:
        """Let a cancellation reach a spawn: nothing may be left."""
        if self.phases[number] == "called off":
            self._leave_queue(number)
            self._resolve(number, ("cancelled",))
            return
        self.phases[number] = "gone"
        process = self.live[number]
        process.is_unwanted = True
        process.settle("caller of spawn cancelled", "the caller of spawn was cancelled")
        process.kill(self.now, told)

    def _leave_queue(self, number: int) -> None:
        """Give up a claim that waits, or has its turn and no process."""
        if not self.keys.leave(number):
            self._release(number)

    def _release(self, number: int) -> None:
        """Pass a place on to the next claim."""
        process = self.started.get(number)
        heir = self.keys.release(
            number,
            had_process=process is not None,
            keeps=process is not None and process.spawn.keep_key and not (process.is_freeing or process.is_unwanted),
            gives_back=process is not None and process.is_unwanted and not process.is_freeing,
        )
        if heir is not None and self.phases[heir] == "queued":
            self.phases[heir] = "turned"

    # Answers.

    def _hear(self, process: Proc, told: list[Told]) -> None:
        before = process.state
        process.listen(self.now, told)
        self._answer_if_ready(process, before)

    def _answer_if_ready(self, process: Proc, before: str) -> None:
        if before == "starting" and process.ready_at is not None:
            self._answer(process.number, ("returned", process.number))

    def _answer(self, number: int, outcome: Outcome) -> None:
        """Answer a spawn, unless a cancellation has reached it."""
        if self.phases[number] == "waiting" and number not in self.cancelled:
            self._resolve(number, outcome)

    def _resolve(self, number: int, outcome: Outcome) -> None:
        is_read = self.phases.get(number) == "reading"
        if is_read and len(self.log.items.get(number, ())) != self.reading(number).done:
            raise Refuted(f"stream {number} should give {self.reading(number)}; it gave {self.log.items.get(number)}")
        self.phases[number] = "over"
        shown = self.outcomes.get(number)
        if shown != (self.now, outcome):
            raise Refuted(f"command {number} should come to {outcome} at {self.now}; it came to {shown}")

    def _ended(self, process: Proc, error: str | None = None) -> None:
        """Take an ended process off the list, and answer the calls that wait for that."""
        number = process.number
        if not process.is_stop_expected and number in self.stops:
            raise Refuted(f"process {number} was asked to stop, and should not have been: {self.stops[number]}")
        del self.live[number]
        self._release(number)
        self._lose_calls(process)
        if self.phases[number] in ("waiting", "gone"):
            if number in self.cancelled:
                if self.phases[number] == "waiting":
                    self.disowned |= {number}
                self._resolve(number, ("cancelled",))
            else:
                late = process.state == "timed_out"
                self._resolve(
                    number, (error or ("StartupTimeoutError" if late else "StartupFailedError"), process.state)
                )
        self._tell_watchers(process)
        for other, command in self.commands.items():
            if isinstance(command, Spawn) and command.after_end_of == number:
                self.begins[other] = self.now

    def _tell_watchers(self, process: Proc) -> None:
        if process.number in self.live:
            return
        for number, phase in tuple(self.phases.items()):
            command = self.commands[number]
            if phase == "watching" and not isinstance(command, Spawn | List) and command.target == process.number:
                if isinstance(command, Stop):
                    self._resolve(number, ("returned",))
                else:
                    times = (process.started_at, process.ready_at, process.beat_at, process.ended_at)
                    self._resolve(number, ("ended", process.state, *times))
            elif phase == "sending" and self._target(number) is process:
                self._resolve(number, BROKEN)

    # The whole worker.

    def _unload(self, index: int, told: list[Told]) -> None:
        self.ahead = self.ahead[:index] + self.ahead[index + 1 :]
        if self.is_closed:
            return
        self.is_closed = True
        for process in list(self.live.values()):
            grace = min(process.grace, self.scenario.grace_period)
            self._stop(process, "backend_unloaded", "backend_unloaded", told, grace=grace, may_kill=False)

    def _kill_all(self, index: int, told: list[Told]) -> None:
        self.ahead = self.ahead[:index] + self.ahead[index + 1 :]
        for process in list(self.live.values()):
            self._stop(process, "backend_unloaded", "backend_unloaded", told, grace=0)
