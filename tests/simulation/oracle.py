"""Judges a log: whether the contract allows what has happened.

For each worker there is a `WorkerModel`, and a search: from the beginning, every order in which the model's steps and
the log's lines may have followed each other at each instant is tried, and dropped as soon as the model has to show
something that the log does not, or the other way round. Nearly always there is one order. Where several things happen
at the very same instant there are more, and each leads to definite events, answers and times; if none of them leads to
the end of the log, the contract is broken, and the complaint says how far the best of them came and what stopped it.

What concerns no order is checked without a search: messages, keys, blocks, and what is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from simulation.lane_model import Outcome
from simulation.model import KILL, OUTCOME, PARTED, Refuted, Told
from simulation.playing import Seen
from simulation.scenario import Scenario, Send, place_of
from simulation.stage import Entry, Log
from simulation.worker_model import WorkerModel
from simulation.worker_state import Step

SHOWN = ("event", "killed")
MOST_STATES = 1_000_000
"""More orders than this are not tried. One of 14 000 scenarios needed more than 20 000."""


def judge(scenario: Scenario, log: Log) -> list[str]:
    """List what is against the contract; empty if nothing is."""
    complaints = list(log.remarks)
    for worker in range(len(scenario.workers)):
        complaints += _Search(scenario, worker, log).run()
    for check in (_messages, _sent_to_them, _keys, _blocks, _channels, _facts):
        complaints += check(scenario, log)
    return complaints


class _Search:
    """The search for an order that explains a worker's log."""

    def __init__(self, scenario: Scenario, worker: int, log: Log) -> None:
        self.worker = worker
        self.lines = [entry for entry in log.entries if entry.worker == worker and entry.what != "message"]
        outcomes: dict[int, tuple[float, Outcome]] = {}
        for entry in self.lines:
            if entry.what == "outcome":
                assert isinstance(entry.detail, tuple)
                outcomes[entry.number] = entry.at, entry.detail
        self.stack = [(WorkerModel(scenario, worker, outcomes, log), 0)]
        self.seen: set[tuple[object, ...]] = set()
        self.furthest = -1
        self.hindrances: dict[str, None] = {}

    def run(self) -> list[str]:
        for _ in range(MOST_STATES):
            if not self.stack:
                break
            if self._follow(*self.stack.pop()):
                return []
        else:
            return [f"worker {self.worker}: more than {MOST_STATES} orders, and none that explains the log"]
        line = self.lines[self.furthest] if self.furthest < len(self.lines) else "the end of the log"
        return [f"worker {self.worker}: nothing explains {line}", *(f"  - {why}" for why in self.hindrances)]

    def _follow(self, model: WorkerModel, place: int) -> bool:
        """Continue until there is a choice, which goes on the stack, or no way; return whether the end was reached."""
        while True:
            choices = self._choices(model, place)
            if choices is None:
                return False
            if not choices:
                if place == len(self.lines) and model.next_time() == float("inf"):
                    return self._is_over(model, place)
                next_line = self.lines[place].at if place < len(self.lines) else float("inf")
                model.now = min(next_line, model.next_time())
            elif len(choices) == 1:
                ((model, place),) = choices
            else:
                key = (place, model.key())
                if key not in self.seen:
                    self.seen.add(key)
                    self.stack += reversed(choices)
                return False

    def _choices(self, model: WorkerModel, place: int) -> list[tuple[WorkerModel, int]] | None:
        """List where things can go from here at this instant; empty if time has to pass, `None` if it must not."""
        line = self.lines[place] if place < len(self.lines) and self.lines[place].at <= model.now else None
        if line is not None and line.what == "outcome" and model.see(*line[2:]) is not None:
            return [(model, place + 1)]  # it tells what has been decided before, and nothing hangs on when
        steps: list[Step | Entry] = list(model.steps())
        if not steps and line is None:
            overdue = model.overdue()
            if overdue is not None:
                self._note(place, overdue)
                return None
            return []
        if line is not None and line.what not in SHOWN:
            steps.append(line)
        choices: list[tuple[WorkerModel, int]] = []
        for step in steps:
            after = model.copy() if len(steps) > 1 else model
            end = self._try(after, step, place)
            if end is not None:
                choices.append((after, end))
        if not steps:
            assert line is not None
            self._note(place, f"the log shows {line}, for which there is no reason")
        # What the log shows next is the better guess.
        choices.sort(key=lambda choice: choice[1], reverse=True)
        return choices or None

    def _try(self, model: WorkerModel, step: Step | Entry, place: int) -> int | None:
        """Take a step, and return the place in the log after what it has to show, if that is there."""
        try:
            if isinstance(step, Entry):
                told = model.see(*step[2:])
                if told is None:
                    self._note(place, f"the log shows {step}, for which there is no reason")
                    return None
                place += 1
            else:
                told = model.take(step)
        except Refuted as error:
            self._note(place, str(error))
            return None
        for expected in told:
            line = self.lines[place] if place < len(self.lines) else None
            if line is None or not _shows(line, expected, model.now):
                self._note(place, f"at {model.now} {step} would show {expected}; the log has {line}")
                return None
            place += 1
        return place

    def _is_over(self, model: WorkerModel, place: int) -> bool:
        open_ones = [number for number in model.phases if model.phases[number] != "over"]
        if open_ones or model.live or model.keys.is_claimed:
            self._note(place, f"commands {open_ones} have come to nothing, processes {list(model.live)} live on")
            return False
        return True

    def _note(self, place: int, why: str) -> None:
        if place > self.furthest:
            self.furthest, self.hindrances = place, {}
        if place == self.furthest:
            self.hindrances[why] = None


def _shows(line: Entry, expected: Told, now: float) -> bool:
    if line.at != now or line.number != expected.number:
        return False
    if expected.state in (KILL, OUTCOME):
        return line.what == expected.state
    if line.what != "event":
        return False
    seen = line.detail
    assert isinstance(seen, Seen)
    wanted = (expected.previous, expected.state, expected.reason, expected.result, now)
    if (seen.previous, seen.state, seen.exit_reason, seen.result, seen.at) != wanted:
        return False
    if expected.error is None:
        return seen.error is None
    return all(part in (seen.error or "") for part in expected.error.split(PARTED))


# What needs no search.


def _messages(scenario: Scenario, log: Log) -> Iterator[str]:
    """Each message arrives once, in order, and when it was sent; and all that was sent before an end, before it."""
    sent = _sound_messages(log)
    arrived: dict[int, list[tuple[float, object]]] = {}
    for entry in log.entries:
        number = entry.number
        if entry.what == "message":
            arrived.setdefault(number, []).append((entry.at, entry.detail))
        elif _is_end(entry):
            got, wanted = arrived.pop(number, []), sent.get(number, [])
            if scenario.workers[entry.worker].listens and got != wanted:
                yield f"process {number}: before its end it had sent {wanted}, and these had arrived: {got}"
            if number in log.held:
                yield from _held(scenario, entry, [payload for _, payload in wanted], log.held[number])
    for number, rest in arrived.items():
        yield f"process {number}: messages after its end: {rest}"


def _sound_messages(log: Log) -> dict[int, list[tuple[float, int]]]:
    """List what each process has sent and when, up to any nonsense: what follows that is not to be trusted."""
    sent: dict[int, list[tuple[float, int]]] = {}
    broken: set[int] = set()
    for entry in log.entries:
        if entry.what == "act":
            assert isinstance(entry.detail, tuple)
            for act in entry.detail:
                if act.what == "send nonsense":
                    broken.add(entry.number)
                elif act.what == "send" and entry.number not in broken:
                    messages = sent.setdefault(entry.number, [])
                    first = len(messages)
                    messages += [(entry.at, first + more) for more in range(act.value)]
    return sent


def _held(scenario: Scenario, end: Entry, sent: list[int], shown: tuple[list[object], int, int]) -> Iterator[str]:
    """Messages that nobody listened to are held for a late reader: the newest, up to the bound."""
    waiting = [] if scenario.workers[end.worker].listens else sent
    most = scenario.inbox_messages
    wanted = waiting[-most:], len(sent), max(0, len(waiting) - most)
    if shown != wanted:
        yield f"process {end.number}: held for a late reader, received, dropped should be {wanted}, and are {shown}"


def _sent_to_them(scenario: Scenario, log: Log) -> Iterator[str]:
    """Every message that `send` has sent arrives once, in order; no other message arrives."""
    returned: dict[int, list[int]] = {}
    when: dict[int, float] = {}
    for entry in log.entries:
        command = scenario.commands[entry.number]
        if entry.what == "outcome" and isinstance(command, Send) and entry.detail == ("returned",):
            returned.setdefault(command.target, []).append(entry.number)
            when[entry.number] = entry.at
    for number in returned.keys() | log.received.keys():
        got = log.received.get(number, [])
        if sorted(got) != sorted(returned.get(number, [])):
            yield f"process {number}: it was sent {returned.get(number)}, and got {got}"
        elif [when[message] for message in got] != sorted(when[message] for message in got):
            yield f"process {number}: it got its messages out of order: {got}"


def _keys(scenario: Scenario, log: Log) -> Iterator[str]:
    """At most one process of a key is alive at any instant, and no worker has more than it may."""
    alive: dict[int, set[int]] = {worker: set() for worker in range(len(scenario.workers))}
    for entry in log.entries:
        processes = alive[entry.worker]
        if entry.what == "launched":
            processes.add(entry.number)
            places = [
                place_of(scenario.workers[entry.worker], scenario.spawn(number), number) for number in sorted(processes)
            ]
            keyed = [place for place in places if place is not None]
            if len(keyed) != len(set(keyed)):
                yield f"at {entry.at} processes {sorted(processes)} are alive, two of them for one key"
            if len(processes) > scenario.max_processes:
                yield f"at {entry.at} processes {sorted(processes)} are alive, more than {scenario.max_processes}"
        elif _is_end(entry):
            processes.discard(entry.number)  # which includes one that was abandoned


def _blocks(scenario: Scenario, log: Log) -> Iterator[str]:
    """A block is left when the last of its processes is gone, and not later."""
    ends = dict.fromkeys(range(len(scenario.workers)), 0.0)
    for entry in log.entries:
        if _is_end(entry):
            ends[entry.worker] = entry.at
    for worker, plan in enumerate(scenario.workers):
        wanted = max(plan.block.left_at, ends[worker])
        if log.left.get(worker) != wanted:
            yield f"worker {worker} should have been left at {wanted}, and was at {log.left.get(worker)}"
    wanted = max(scenario.host.left_at, *(ends[worker] for worker in ends))
    if log.left.get(None) != wanted:
        yield f"the host should have been left at {wanted}, and was at {log.left.get(None)}"
    if wanted > scenario.host.left_at + scenario.grace_period + 2:
        yield f"the host took from {scenario.host.left_at} to {wanted} to leave"


def _channels(scenario: Scenario, log: Log) -> Iterator[str]:
    """Channels give what handlers have heard, in the same order."""
    for worker, plan in enumerate(scenario.workers):
        entries = [entry for entry in log.entries if entry.worker == worker]
        events = [
            (entry.number, entry.detail.state)
            for entry in entries
            if entry.what == "event" and isinstance(entry.detail, Seen)
        ]
        if log.channel_events.get(worker) != events:
            yield f"worker {worker}: its channel of events gave {log.channel_events.get(worker)}, its handler {events}"
        messages = [(entry.number, entry.detail) for entry in entries if entry.what == "message"]
        if plan.listens and log.channel_messages.get(worker) != messages:
            yield f"worker {worker}: its channel gave {log.channel_messages.get(worker)}, its handler {messages}"


def _facts(scenario: Scenario, log: Log) -> Iterator[str]:
    """A child learns its own facts."""
    for number, facts in log.facts.items():
        spawn = scenario.spawn(number)
        plan = scenario.workers[spawn.worker]
        place = place_of(plan, spawn, number)
        told = (facts.get("userId"), facts["kind"], facts.get("key")) if place else facts.get("key")
        if told != place or facts["payload"] != {"number": number}:
            yield f"process {number} was told {facts}, and is {place}"


def _is_end(entry: Entry) -> bool:
    return entry.what == "event" and isinstance(entry.detail, Seen) and entry.detail.exit_reason is not None
