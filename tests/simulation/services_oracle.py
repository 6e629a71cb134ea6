"""Judges a log of services: says what in it is not as it has to be.

What one service has to do is in `services_model`. Here is what goes across: one process of a key at a time, a key that
is never free between two generations and always free afterwards, and what those who ask get.
"""

from __future__ import annotations

import math

from simulation.drawing import EXITS
from simulation.scenario import FOREVER
from simulation.services_model import CLOSE, ServiceModel
from simulation.services_playing import LAGGED, STRANGER
from simulation.services_scenario import OF_STRANGERS, Ask, ServicesScenario, generation_of, service_of
from simulation.stage import Entry, Log

KEPT_GENERATIONS = 16
"""How many ended generations a channel keeps for its reader."""

ROUNDED = 1e-3
"""Seconds by which a timeout may be off that travels: as whole milliseconds."""


def judge_services(scenario: ServicesScenario, log: Log) -> list[str]:
    """List what is wrong."""
    judge = _Judge(scenario, log)
    judge.hear_all()
    judge.look_at_asks()
    judge.look_at_messages()
    complaints = [complaint for model in judge.models for complaint in model.complaints]
    return [*log.remarks, *judge.complaints, *complaints]


class _Judge:
    def __init__(self, scenario: ServicesScenario, log: Log) -> None:
        self.scenario, self.log = scenario, log
        self.complaints: list[str] = []
        self.models = [
            ServiceModel(number, plan, is_far=scenario.is_far) for number, plan in enumerate(scenario.services)
        ]
        self.asked: dict[int, tuple[Entry, int]] = {}
        """Ask → its line, and the generation that had begun."""
        self.outcomes: dict[int, Entry] = {}
        self.live: set[int] = set()
        """Services that have a process."""
        self.strangers: dict[int, tuple[str | None, float, float]] = {}
        """Process → its key, and from when to when it had it."""

    # ---- the log

    def hear_all(self) -> None:
        """Go through all lines."""
        for line in self.log.entries:
            for model in self.models:
                model.pass_time(line.at)
            if line.what == "launching":
                self._look_at_key(line)
            self._note_life(line)
            if line.what in ("asked", "outcome"):
                self._hear_ask(line)
            elif line.what == "worker leaving":
                for model in self.models:
                    model.worker_leaves_at = line.at
            elif line.worker != STRANGER:
                self._hear_opening(line)
                self.models[line.worker].hear(line)
        for model in self.models:
            model.pass_time(FOREVER)
            if model.left is None:
                model.complain(FOREVER, "its block is never left")

    def _hear_opening(self, line: Entry) -> None:
        plan = self.scenario.services[line.worker]
        if line.what == "open" and plan.replaces:
            self._note_taker(line.at, plan.key, line.worker)

    def _hear_ask(self, line: Entry) -> None:
        model = self.models[line.worker]
        if line.what == "outcome":
            self.outcomes[line.number] = line
            return
        self.asked[line.number] = line, model.begun
        match line.detail:
            case "replace":
                self._note_taker(line.at, model.plan.key, STRANGER)
            case "stop process":
                model.stops.append((line.at, self._last_process(model)))
            case "stop" if model.runs and model.phase != "over":
                model.close(line.at)
            case "restart" if model.runs:
                model.ask_restart(line.at)
            case _:
                pass

    def _last_process(self, model: ServiceModel) -> int:
        return model.number * 1_000 + model.generation

    def _note_taker(self, at: float, key: str | None, taker: int) -> None:
        for model in self.models:
            if key is not None and model.plan.key == key and model.number != taker:
                model.takers.append(at)

    # ---- keys

    def _note_life(self, line: Entry) -> None:
        """Note which services have a process, and until when strangers had a key: the stage knows first."""
        if line.what == "launched":
            self.live.add(line.worker)
        elif line.what in ("killed", "unlaunched") or (
            line.what == "act" and isinstance(line.detail, tuple) and any(act.what in EXITS for act in line.detail)
        ):
            self.live.discard(line.worker)
            if line.number in self.strangers:
                key, since, _ = self.strangers[line.number]
                self.strangers[line.number] = key, since, line.at

    def _key_of(self, process: int) -> tuple[str | None, bool]:
        """Tell the key of a process, and whether it may take it from another one."""
        service = service_of(process)
        if service is not None:
            plan = self.scenario.services[service]
            return plan.key, plan.replaces and generation_of(process) == 1
        number = process - OF_STRANGERS
        line, _ = self.asked[number]
        return self.scenario.services[line.worker].key, line.detail == "replace"

    def _look_at_key(self, line: Entry) -> None:
        key, may_replace = self._key_of(line.number)
        if service_of(line.number) is None:
            self.strangers[line.number] = key, line.at, math.inf
        if key is None:
            return
        for model in self.models:
            if model.plan.key != key or model.number == service_of(line.number):
                continue
            if model.number in self.live:
                self._complain(line.at, f"{line.number} has the key of service {model.number}, which is {model.phase}")
            elif may_replace and model.phase == "between" and model.generation > 0:
                model.lost_at = min(model.lost_at, line.at)
            elif model.is_holding(line.at):
                self._complain(
                    line.at, f"{line.number} takes the key of service {model.number} between two generations"
                )
        for stranger, (other, since, until) in self.strangers.items():
            if stranger != line.number and other == key and since <= line.at < until:
                self._complain(line.at, f"{line.number} has the key of {stranger}")

    def _is_key_taken(self, key: str | None, at: float, service: int | None) -> bool:
        """Whether somebody may have a key at this moment."""
        for model in self.models:
            if model.plan.key == key and model.number != service:
                since, until = model.may_have_key
                if since <= at <= until:
                    return True
        return any(
            other == key and since - CLOSE <= at <= until + CLOSE for other, since, until in self.strangers.values()
        )

    # ---- what those who ask get

    def look_at_asks(self) -> None:
        """Look at each outcome."""
        for number, (line, begun) in self.asked.items():
            outcome = self.outcomes.get(number)
            if outcome is None or not isinstance(outcome.detail, tuple):
                self._complain(line.at, f"ask {number} has no outcome")
            else:
                ask = self.scenario.asks[number] if number < len(self.scenario.asks) else None
                self._look_at(number, line, begun, outcome.at, outcome.detail, ask)
        for model in self.models:
            if model.left is None or model.left[1].outcome[0] != "DuplicateKeyError":
                continue
            if not self._is_key_taken(model.plan.key, model.left[0], model.number):
                model.complain(model.left[0], "nobody has its key")

    def _look_at(
        self, number: int, line: Entry, begun: int, at: float, got: tuple[object, ...], ask: Ask | None
    ) -> None:
        model = self.models[line.worker]
        complaint: str | None = None
        if got[0] == "cancelled":
            if ask is None or abs(at - max(ask.cancelled_at, line.at)) > CLOSE:
                complaint = "is cancelled by nobody"
        elif line.detail == "probe":
            if got[0] == "DuplicateKeyError" and not self._is_key_taken(model.plan.key, at, None):
                complaint = "was refused a key that nobody has"
        elif line.detail in ("restart", "wait", "call", "stop") and got != ("no service",):
            complaint = self._complaint_about(model, number, line, begun, at, got, ask)
        if complaint is not None:
            self._complain(
                at, f"{line.detail} {number} of service {model.number}, asked at {line.at}: {complaint}: {got}"
            )

    def _complaint_about(
        self, model: ServiceModel, number: int, line: Entry, begun: int, at: float, got: tuple[object, ...],
        ask: Ask | None,
    ) -> str | None:  # fmt: skip
        assert ask is not None, "somebody has drawn it"
        name = str(got[0])
        over_at = min(model.closing_at, model.over_at)
        if name in ("ClosedResourceError", "ServiceGaveUpError", "StartupCancelledError") and line.detail != "stop":
            is_right_time = abs(at - max(line.at, over_at)) < CLOSE
            return None if is_right_time else f"the service was not over before {over_at}"
        match line.detail:
            case "stop":
                return None if abs(at - max(line.at, min(model.over_at, at))) < CLOSE else "it was gone earlier"
            case "restart":
                runs = [run for generation, run in sorted(model.runs.items()) if generation > begun]
                since = min(
                    (up for up, end, process in model.ups if generation_of(process) > begun and end > up + CLOSE),
                    default=math.inf,
                )
                is_run = any(abs(run - at) < CLOSE for run in runs) and at <= since + CLOSE
                return None if is_run else f"later generations ran at {runs}"
            case "wait":
                since = self._first_up(model, line.at)
                is_up = any(
                    begin - CLOSE <= at <= end + CLOSE and process == got[1] for begin, end, process in model.ups
                )
                return None if is_up and at <= max(line.at, since) + CLOSE else f"it was up since {since}"
            case _:
                return self._complaint_about_call(model, number, line, at, name, ask)

    def _complaint_about_call(
        self, model: ServiceModel, number: int, line: Entry, at: float, name: str, ask: Ask
    ) -> str | None:
        begun = self.log.calls.get(number, [])
        if len(begun) > 1:
            return f"it was begun more than once: {begun}"
        since = max(line.at, self._first_up(model, line.at))
        for process, began_at, *_ in begun:
            if not any(
                process == other and begin - CLOSE <= began_at <= end + CLOSE for begin, end, other in model.ups
            ):
                return f"it was begun before the process was let through: {begun}"
            if began_at > since + CLOSE:
                return f"it was begun late, at {began_at}; the service was up since {since}"
        if name == "answered":
            return None if begun else "nobody was called"
        if name == "CallTimeoutError":
            is_right_time = abs(at - line.at - ask.timeout) < ROUNDED
            return None if is_right_time and (begun or since >= at - ROUNDED) else "it had time"
        if name == "ProcessLostError":
            is_lost = any(abs(end - at) < CLOSE or end < at for begin, end, _ in model.ups if begin <= at)
            return None if is_lost else "no process was lost"
        return "that is no outcome of a call"

    def _first_up(self, model: ServiceModel, at: float) -> float:
        """Tell since when there was a process, for somebody who came at this time."""
        return min((begin for begin, end, _ in model.ups if end > at + CLOSE and end > begin + CLOSE), default=math.inf)

    # ---- messages

    def look_at_messages(self) -> None:
        """Look whether each reader has got all that processes had sent which were let through, in order."""
        for number, read in self.log.channel_messages.items():
            model = self.models[number]
            missed = sum(int(str(count)) for generation, count in read if generation == LAGGED)
            generations = [generation for generation, _ in read if generation != LAGGED]
            if generations != sorted(generations):
                self._complain(0.0, f"service {number}: messages came as {read}")
            for generation in model.runs:
                wanted = list(range(model.sent.get(generation, 0)))
                got = [payload for other, payload in read if other == generation]
                if missed and generation <= len(model.runs) - KEPT_GENERATIONS and got == wanted[: len(got)]:
                    missed -= len(wanted) - len(got)
                elif got != wanted:
                    self._complain(0.0, f"service {number}: of generation {generation} came {got}, not {wanted}")
            if missed:
                self._complain(0.0, f"service {number}: the number of messages that were dropped is wrong by {missed}")

    def _complain(self, at: float, text: str) -> None:
        self.complaints.append(f"{at:.6f} {text}")
