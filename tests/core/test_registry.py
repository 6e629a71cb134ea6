"""The registry: which process holds a key, which spawns wait for it, and how many there may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spindle_trio._errors import DuplicateKeyError, ProcessLimitError
from spindle_trio._host._claims import Claim
from spindle_trio._host._registry import Registry
from spindle_trio._model import ProcessFilter, ProcessInfo, ProcessState

AT = datetime(2026, 3, 1, tzinfo=UTC)


@attrs.define(eq=False)
class Listed:
    """A process as the registry sees it."""

    process_id: str
    user_id: str | None = "ada"
    kind: str = "k"
    key: str | None = None
    state: ProcessState = ProcessState.RUNNING

    @property
    def info(self) -> ProcessInfo:
        return ProcessInfo(self.process_id, "a.py", self.kind, self.state, AT, key=self.key, user_id=self.user_id)


def nothing() -> None:
    """Stand in for `on_turn` while nobody waits."""


def claim(
    registry: Registry,
    key: str | None = "x",
    *,
    user_id: str = "ada",
    kind: str = "k",
    replace: bool = False,
    on_turn: Callable[[], None] = nothing,
) -> Claim:
    return registry.claim(user_id, kind, key, replace=replace, on_turn=on_turn)


def launch(registry: Registry, name: str, key: str | None = "x", *, user_id: str = "ada", kind: str = "k") -> Claim:
    """Claim a place that is free, and put a process there."""
    own = claim(registry, key, user_id=user_id, kind=kind)
    assert not own.is_waiting
    registry.add(own, Listed(name, user_id, kind, key))
    return own


def test_a_key_is_held_by_one_process_per_user_and_kind() -> None:
    registry = Registry(9)
    launch(registry, "p1")
    launch(registry, "p2", user_id="bob")
    launch(registry, "p3", kind="other")
    launch(registry, "p4", "y")
    with pytest.raises(DuplicateKeyError, match=r"kind 'k' with key 'x' is running already \(p1\)") as caught:
        claim(registry)
    assert caught.value.existing.process_id == "p1"
    assert [info.process_id for info in registry.find(ProcessFilter())] == ["p1", "p2", "p3", "p4"]


@pytest.mark.parametrize("one", [("a:b", "c", "d"), ("a", "b:c", "d"), ("a", "b", "c:d")])
def test_keys_are_compared_as_tuples(one: tuple[str, str, str]) -> None:
    """Joined by colons, as the reference does, all of these would be one."""
    registry = Registry(9)
    for user_id, kind, key in {one, ("a:b:c", "d", ""), ("a", "b", "c:d")}:
        launch(registry, user_id + kind + key, key, user_id=user_id, kind=kind)


@pytest.mark.parametrize("state", [ProcessState.STARTING, ProcessState.RUNNING, ProcessState.STOPPING])
def test_a_key_is_taken_whatever_state_its_process_is_in(state: ProcessState) -> None:
    registry = Registry(9)
    registry.add(claim(registry), Listed("p1", key="x", state=state))
    with pytest.raises(DuplicateKeyError, match=f"is {state} already") as caught:
        claim(registry)
    assert caught.value.existing.state is state


def test_without_a_key_replacing_does_nothing() -> None:
    registry = Registry(2)
    assert not claim(registry, None, replace=True).is_waiting
    assert not claim(registry, None, replace=True).is_waiting
    with pytest.raises(ProcessLimitError):
        claim(registry, None, replace=True)


def test_replacing_a_key_that_is_free_is_an_ordinary_spawn() -> None:
    registry = Registry(1)
    assert not claim(registry, replace=True).is_waiting
    assert registry.queued == 0


def test_replacements_take_over_in_the_order_in_which_they_came() -> None:
    registry, turns = Registry(1), list[int]()
    current = launch(registry, "p0")
    waiting = [claim(registry, replace=True, on_turn=lambda number=n: turns.append(number)) for n in (1, 2, 3)]  # type: ignore[misc]  # bound early
    assert [one.is_waiting for one in waiting] == [True] * 3
    assert registry.queued == 3
    for number, successor in enumerate(waiting, start=1):
        assert registry.successors(current)
        holder = registry.holder_of(successor)
        assert holder is current.holder
        assert registry.release(current) is successor
        assert turns == list(range(1, number)), "the place passes on before its new holder is told"
        successor.on_turn()
        assert not successor.is_waiting
        registry.add(successor, Listed(f"p{number}", key="x"))
        assert [info.process_id for info in registry.find(ProcessFilter())] == [f"p{number}"]
        current = successor
    assert not registry.successors(current)
    assert registry.release(current) is None
    assert turns == [1, 2, 3]
    assert registry.find(ProcessFilter()) == []


def test_nobody_slips_in_between_a_process_and_its_replacement() -> None:
    """The key passes in one step: until then its last holder has it."""
    registry = Registry(1)
    first = launch(registry, "p1")
    second = claim(registry, replace=True)
    third = claim(registry, replace=True)
    assert first.holder is not None
    first.holder.state = ProcessState.STOPPED  # type: ignore[misc]  # of the stand-in
    assert registry.release(first) is second
    with pytest.raises(DuplicateKeyError, match=r"key 'x' is being replaced \(p1\)") as caught:
        claim(registry)
    assert (caught.value.existing.process_id, caught.value.existing.state) == ("p1", ProcessState.STOPPED)
    assert registry.holder_of(third) is None
    # The second one is cancelled before it has launched anything: what was seen last is passed on with the place.
    assert registry.release(second) is third
    with pytest.raises(DuplicateKeyError) as caught:
        claim(registry)
    assert caught.value.existing.process_id == "p1"
    registry.add(third, Listed("p3", key="x"))
    with pytest.raises(DuplicateKeyError, match="p3"):
        claim(registry)


def test_a_replacement_that_is_withdrawn_leaves_the_others_in_order() -> None:
    registry = Registry(1)
    first = launch(registry, "p1")
    second, third = claim(registry, replace=True), claim(registry, replace=True)
    assert registry.release(second) is None
    assert registry.queued == 1
    assert registry.release(first) is third
    assert registry.release(third) is None
    assert not claim(registry).is_waiting


def test_the_limit_counts_processes_and_a_replacement_not_twice() -> None:
    registry = Registry(2)
    first = launch(registry, "p1")
    launch(registry, "p2", None)
    with pytest.raises(ProcessLimitError, match="this worker has 2 live processes already") as caught:
        claim(registry, "y")
    assert caught.value.limit == 2
    with pytest.raises(DuplicateKeyError):  # which of the two it is does not depend on how many there are
        claim(registry)
    second = claim(registry, replace=True)
    registry.release(first)
    registry.add(second, Listed("p3", key="x"))
    with pytest.raises(ProcessLimitError):
        claim(registry, "y", replace=True)
    registry.release(second)
    assert not claim(registry, "y").is_waiting


def test_a_claim_that_comes_to_nothing_frees_its_key_and_its_slot() -> None:
    registry = Registry(1)
    own = claim(registry)
    assert registry.release(own) is None
    assert not claim(registry).is_waiting


def test_only_a_claim_on_a_key_has_a_predecessor_or_a_successor() -> None:
    registry = Registry(2)
    own = launch(registry, "p1", None)
    assert not registry.successors(own)
    with pytest.raises(AssertionError, match="only a claim on a key"):
        registry.holder_of(own)


def test_a_filter_matches_all_that_it_is_given() -> None:
    registry = Registry(9)
    launch(registry, "p1", "x")
    launch(registry, "p2", "y", user_id="bob")
    launch(registry, "p3", "x", kind="other")
    registry.add(claim(registry, None), Listed("p4", state=ProcessState.STOPPING))

    def found(**wanted: object) -> list[str]:
        return [info.process_id for info in registry.find(ProcessFilter(**wanted))]  # type: ignore[arg-type]  # as named

    assert found() == ["p1", "p2", "p3", "p4"]
    assert found(user_id="ada") == ["p1", "p3", "p4"]
    assert found(kind="k") == ["p1", "p2", "p4"]
    assert found(key="x") == ["p1", "p3"]
    assert found(state="running") == ["p1", "p2", "p3"]
    assert found(state="stopping", user_id="ada") == ["p4"]
    assert found(kind="k", key="x", user_id="ada", state="running") == ["p1"]
    assert found(kind="k ") == []
    assert found(user_id="") == []
    assert found(state="failed") == []


# ---- any sequence of calls, against a list of queues

PLACES = [None, "x", "y"]


class RegistryMachine(RuleBasedStateMachine):
    """The oracle is a queue for each place, whose head has the key, and a bag of claims without a key."""

    MOST = 3

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(self.MOST)
        self.queues: dict[str, list[Claim]] = {"x": [], "y": []}
        self.without_key: list[Claim] = []
        self.launched: list[Claim] = []
        self.given_up: list[Claim] = []
        self.number = 0

    @property
    def held(self) -> int:
        return len(self.without_key) + sum(bool(queue) for queue in self.queues.values())

    @rule(key=st.sampled_from(PLACES), replace=st.booleans())
    def ask(self, key: str | None, replace: bool) -> None:
        queue = self.queues[key] if key is not None else []
        # A claim without a process that never had a predecessor cannot be replaced: the host launches in the same step.
        if queue and queue[0] not in self.launched and queue[0].last_info is None:
            return
        if queue and not replace:
            with pytest.raises(DuplicateKeyError):
                claim(self.registry, key)
        elif not queue and self.held == self.MOST:
            with pytest.raises(ProcessLimitError):
                claim(self.registry, key, replace=replace)
        else:
            own = claim(self.registry, key, replace=replace)
            (self.without_key if key is None else queue).append(own)
            assert own.is_waiting is (key is not None and len(queue) > 1)

    @precondition(lambda self: self.ready_to_launch())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        own = data.draw(st.sampled_from(self.ready_to_launch()))
        self.number += 1
        self.registry.add(own, Listed(str(self.number), key=None if own.place is None else own.place[2]))
        self.launched.append(own)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        everybody = self.without_key + self.queues["x"] + self.queues["y"]
        own = data.draw(st.sampled_from(everybody))
        successor = self.registry.release(own)
        if own in self.launched:
            self.launched.remove(own)
        if own in self.without_key:
            self.without_key.remove(own)
            assert successor is None
            return
        queue = next(queue for queue in self.queues.values() if own in queue)
        had_key = queue[0] is own
        queue.remove(own)
        assert successor is (queue[0] if had_key and queue else None)

    def ready_to_launch(self) -> list[Claim]:
        heads = self.without_key + [queue[0] for queue in self.queues.values() if queue]
        return [own for own in heads if own not in self.launched]

    @invariant()
    def it_agrees_with_the_queues(self) -> None:
        assert self.registry.queued == sum(max(0, len(queue) - 1) for queue in self.queues.values())
        assert self.registry.find(ProcessFilter()) == [own.holder.info for own in self.launched if own.holder]
        for queue in self.queues.values():
            for position, own in enumerate(queue):
                assert own.is_waiting is (position > 0)
                assert len(list(self.registry.successors(own))) == len(queue) - 1
                assert self.registry.holder_of(own) is queue[0].holder


TestRegistryMachine = RegistryMachine.TestCase


class Untouchable(Listed):
    """A process that nobody may look at but by its place."""

    @property
    def info(self) -> ProcessInfo:
        raise AssertionError("looked at, though its place is another one")


def test_a_whole_place_is_found_without_looking_at_other_processes() -> None:
    registry = Registry(9)
    for name in ("p1", "p2"):
        registry.add(claim(registry, name), Untouchable(name, "ada", "k", name))
    launch(registry, "wanted", "x")
    wanted = ProcessFilter(user_id="ada", kind="k", key="x")
    assert [info.process_id for info in registry.find(wanted)] == ["wanted"]
    assert registry.find(attrs.evolve(wanted, state=ProcessState.STOPPING)) == []
    assert registry.find(attrs.evolve(wanted, key="y")) == []


def test_a_place_between_two_processes_is_nobodys() -> None:
    registry = Registry(9)
    first = launch(registry, "first", "x")
    claim(registry, "x", replace=True)
    registry.release(first)
    assert registry.find(ProcessFilter(user_id="ada", kind="k", key="x")) == []


def test_thousands_who_give_up_waiting_for_one_key_do_not_search_for_one_another() -> None:
    """In the worst order: a search from the front would pass all earlier claims."""

    def take(count: int) -> float:
        registry = Registry(9)
        launch(registry, "holder", "x")
        waiting = [claim(registry, "x", replace=True) for _ in range(count)]
        began = time.process_time()
        for last in reversed(waiting):
            assert registry.release(last) is None
        return time.process_time() - began

    few, many = min(take(2_000) for _ in range(3)), min(take(20_000) for _ in range(3))
    assert many < 40 * few  # 10 would be exact, and 100 a search
