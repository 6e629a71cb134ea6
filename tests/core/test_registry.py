"""The registry: which process holds a key, which spawns wait for it, and how many there may be."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from spindle_trio._errors import (
    DuplicateKeyError,
    KeyLostError,
    ProcessAccessError,
    ProcessLimitError,
    SpawnRefusedError,
)
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
    keep: bool = False,
    successor_of: str | None = None,
) -> Claim:
    return registry.claim(user_id, kind, key, replace=replace, on_turn=on_turn, keep=keep, successor_of=successor_of)


def launch(
    registry: Registry,
    name: str,
    key: str | None = "x",
    *,
    user_id: str = "ada",
    kind: str = "k",
    successor_of: str | None = None,
) -> Claim:
    """Claim a place that is free, or kept for this one, and put a process there."""
    own = claim(registry, key, user_id=user_id, kind=kind, successor_of=successor_of)
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


# ---- keys that are kept


def end(registry: Registry, own: Claim) -> str:
    """Have the process of a claim end by itself, and return its id."""
    assert own.holder is not None
    own.holder.state = ProcessState.FAILED  # type: ignore[misc]  # of the stand-in
    process_id = own.holder.process_id
    assert registry.release(own) is None
    return process_id


def keep(registry: Registry, name: str, *, successor_of: str | None = None) -> Claim:
    """Claim a place that is to be kept, and put a process there."""
    own = claim(registry, keep=True, successor_of=successor_of)
    assert not own.is_waiting
    registry.add(own, Listed(name, key="x"))
    return own


def is_kept(registry: Registry, process_id: str) -> bool:
    """Whether the key is kept for a successor of a process, and taken for everybody else; if not, it is free."""
    try:
        registry.release(claim(registry))
    except DuplicateKeyError as error:
        assert error.existing.process_id == process_id
        return f"is kept for its next start ({process_id}); give its key up by release_key" in str(error)
    return False


def test_a_kept_key_and_its_slot_are_taken_for_everybody_but_the_successor() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    assert is_kept(registry, first)
    info = registry.kept_for(first)
    assert info is not None
    assert info.state is ProcessState.FAILED
    assert registry.find(ProcessFilter()) == registry.find(ProcessFilter(user_id="ada", kind="k", key="x")) == []
    with pytest.raises(ProcessLimitError, match=r"has 1 live processes already.*, 1 of them keys that are kept"):
        claim(registry, "y")
    second = keep(registry, "p2", successor_of=first)
    with pytest.raises(ProcessLimitError, match="as the host allows; stop one"):
        claim(registry, "y")
    assert is_kept(registry, end(registry, second))


def test_without_keep_the_key_is_free_when_its_process_has_ended() -> None:
    registry = Registry(1)
    first = end(registry, launch(registry, "p1"))
    assert registry.kept_for(first) is None
    assert not is_kept(registry, first)
    with pytest.raises(KeyLostError, match="'x' of kind 'k' is no longer kept for a successor of p1: it was stopped"):
        claim(registry, successor_of=first)


def test_only_the_successor_of_the_last_process_has_the_key() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    second = keep(registry, "p2", successor_of=first)
    for process_id, why in ((first, "another spawn has taken it"), ("p2", "is running still"), ("p9", "stopped or")):
        with pytest.raises(KeyLostError, match=f"for a successor of {process_id}: .*{why}"):
            claim(registry, successor_of=process_id)
    end(registry, second)
    with pytest.raises(KeyLostError):
        claim(registry, successor_of=first)
    assert not claim(registry, successor_of="p2", replace=True).is_waiting


def test_a_successor_has_the_user_kind_and_key_of_its_predecessor() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    with pytest.raises(ProcessAccessError, match=r"process p1 \(a.py\) belongs to another user"):
        claim(registry, successor_of=first, user_id="eve")
    for other in ({"kind": "other"}, {"key": "y"}):
        with pytest.raises(SpawnRefusedError, match="a successor of p1 must have its kind 'k' and key 'x'"):
            claim(registry, successor_of=first, **other)  # type: ignore[arg-type]  # as named
    assert is_kept(registry, first)


def test_a_replacement_takes_a_kept_key_in_one_step() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    own = claim(registry, replace=True)
    assert not own.is_waiting
    assert registry.kept_for(first) is None
    with pytest.raises(DuplicateKeyError, match=r"is being replaced .p1."):
        claim(registry)
    registry.add(own, Listed("p2", key="x"))
    assert not is_kept(registry, end(registry, own))


def test_a_key_goes_to_a_replacement_that_waits_rather_than_being_kept() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    second = keep(registry, "p2", successor_of=first)
    third = claim(registry, replace=True)
    assert registry.release(second) is third
    assert registry.kept_for("p2") is None
    assert registry.kept_for(first) is None
    registry.release(third)
    assert not is_kept(registry, "p2")


def test_who_was_asked_to_stop_keeps_no_key_and_gives_none_back() -> None:
    for is_unwanted_first in (False, True):
        registry = Registry(1)
        first = end(registry, keep(registry, "p1"))
        second = keep(registry, "p2", successor_of=first)
        for say in (second.give_back_key, second.free_key)[:: 1 if is_unwanted_first else -1]:
            say()
        end(registry, second)
        assert not is_kept(registry, first)
        assert registry.kept_for(first) is None
    launch(registry, "p3").free_key()


@pytest.mark.parametrize("keeps", [True, False])
def test_a_successor_that_nobody_wants_gives_the_key_back(keeps: bool) -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    for is_launched in (True, False, True):
        second = claim(registry, successor_of=first, keep=keeps)
        if is_launched:
            registry.add(second, Listed("p2", key="x"))
            second.give_back_key()
        registry.release(second)
        assert is_kept(registry, first)
        assert registry.kept_for("p2") is None
    launch(registry, "p3", successor_of=first).give_back_key()


def test_who_keeps_a_key_and_has_taken_none_over_has_none_to_give_back() -> None:
    registry = Registry(1)
    own = keep(registry, "p1")
    own.give_back_key()
    assert not is_kept(registry, end(registry, own))


def test_a_kept_key_can_be_given_back_as_long_as_it_has_no_successor() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    second = end(registry, keep(registry, "p2", successor_of=first))
    registry.give_up(second, give_back=True)
    assert is_kept(registry, first)
    second = end(registry, keep(registry, "p2", successor_of=first))
    third = end(registry, keep(registry, "p3", successor_of=second))
    assert registry.kept_for(first) is None
    registry.give_up(third, give_back=True)
    assert is_kept(registry, second)
    registry.give_up(second, give_back=True)
    assert not is_kept(registry, second)


def test_a_key_that_is_given_up_is_free_with_its_slot() -> None:
    registry = Registry(1)
    first = end(registry, keep(registry, "p1"))
    second = end(registry, keep(registry, "p2", successor_of=first))
    registry.give_up("p9")
    registry.give_up(second)
    registry.give_up(second)
    assert registry.kept_for(first) is None
    assert not is_kept(registry, second)
    launch(registry, "p3", "y")


def test_a_key_that_is_given_up_while_its_successor_has_it_does_not_come_back() -> None:
    for give_back in (False, True):
        registry = Registry(1)
        first = end(registry, keep(registry, "p1"))
        second = keep(registry, "p2", successor_of=first)
        assert registry.kept_for(first) is not None
        registry.give_up(first, give_back=give_back)
        with pytest.raises(DuplicateKeyError, match=r"is running already .p2."):
            claim(registry)
        second.give_back_key()
        end(registry, second)
        assert not is_kept(registry, first)


# ---- any sequence of calls, against a list of queues

PLACES = [None, "x", "y"]


@attrs.define
class Kept:
    """A key that is kept, as the oracle sees it."""

    process_id: str
    before: str | None
    """The process from which that one had taken it over."""


class RegistryMachine(RuleBasedStateMachine):
    """The oracle is a queue for each place, whose head has the key, what is kept there, and claims without a key."""

    MOST = 3

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(self.MOST)
        self.queues: dict[str, list[Claim]] = {"x": [], "y": []}
        self.kept: dict[str, Kept] = {}
        self.without_key: list[Claim] = []
        self.launched: dict[Claim, str] = {}
        self.keeping: set[Claim] = set()
        self.took: dict[Claim, str] = {}
        self.stopped: set[Claim] = set()
        self.unwanted: set[Claim] = set()
        self.number = 0

    @property
    def held(self) -> int:
        return len(self.without_key) + sum(bool(queue) for queue in self.queues.values()) + len(self.kept)

    @rule(key=st.sampled_from(PLACES), replace=st.booleans(), keeps=st.booleans())
    def ask(self, key: str | None, replace: bool, keeps: bool) -> None:
        queue = self.queues[key] if key is not None else []
        # A claim without a process that never had a predecessor cannot be replaced: the host launches in the same step.
        if queue and queue[0] not in self.launched and queue[0].last_info is None:
            return
        keeps = keeps and key is not None
        if (queue or key in self.kept) and not replace:
            with pytest.raises(DuplicateKeyError) as caught:
                claim(self.registry, key, keep=keeps)
            if key in self.kept:
                assert caught.value.existing.process_id == self.kept[key].process_id
        elif not queue and key not in self.kept and self.held == self.MOST:
            with pytest.raises(ProcessLimitError):
                claim(self.registry, key, replace=replace, keep=keeps)
        else:
            own = claim(self.registry, key, replace=replace, keep=keeps)
            assert own.is_waiting is bool(queue)
            (self.without_key if key is None else queue).append(own)
            if keeps:
                self.keeping.add(own)
            if key is not None:
                self.kept.pop(key, None)

    @precondition(lambda self: self.number)
    @rule(key=st.sampled_from(["x", "y"]), data=st.data(), keeps=st.booleans(), replace=st.booleans())
    def succeed(self, key: str, data: st.DataObject, keeps: bool, replace: bool) -> None:
        process_id = self.draw_process(data)
        place = next((place for place, kept in self.kept.items() if kept.process_id == process_id), None)
        if place == key:
            own = claim(self.registry, key, keep=keeps, successor_of=process_id, replace=replace)
            assert not own.is_waiting
            self.queues[key].append(own)
            self.took[own] = process_id
            del self.kept[key]
            if keeps:
                self.keeping.add(own)
        else:
            with pytest.raises(SpawnRefusedError) as caught:
                claim(self.registry, key, keep=keeps, successor_of=process_id, replace=replace)
            assert isinstance(caught.value, KeyLostError) or self.registry.kept_for(process_id) is not None

    @precondition(lambda self: self.ready_to_launch())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        own = data.draw(st.sampled_from(self.ready_to_launch()))
        self.number += 1
        self.registry.add(own, Listed(str(self.number), key=None if own.place is None else own.place[2]))
        self.launched[own] = str(self.number)

    @precondition(lambda self: self.launched)
    @rule(data=st.data(), is_stop=st.booleans())
    def settle(self, data: st.DataObject, is_stop: bool) -> None:
        """A process is asked to stop, or the caller of its spawn is cancelled."""
        own = data.draw(st.sampled_from(list(self.launched)))
        if is_stop:
            own.free_key()
            self.stopped.add(own)
        else:
            own.give_back_key()
            self.unwanted.add(own)

    @precondition(lambda self: self.without_key or any(self.queues.values()))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        everybody = self.without_key + self.queues["x"] + self.queues["y"]
        own = data.draw(st.sampled_from(everybody))
        successor = self.registry.release(own)
        process_id, took = self.launched.pop(own, None), self.took.pop(own, None)
        if own in self.without_key:
            self.without_key.remove(own)
            assert successor is None
            return
        key, queue = next((key, queue) for key, queue in self.queues.items() if own in queue)
        had_key = queue[0] is own
        queue.remove(own)
        assert successor is (queue[0] if had_key and queue else None)
        if not had_key or queue or own in self.stopped:
            return
        if own in self.keeping and process_id is not None and own not in self.unwanted:
            self.kept[key] = Kept(process_id, took)
        elif took is not None and (process_id is None or own in self.unwanted):
            self.kept[key] = Kept(took, None)

    @precondition(lambda self: self.number)
    @rule(data=st.data(), give_back=st.booleans())
    def release_key(self, data: st.DataObject, give_back: bool) -> None:
        process_id = self.draw_process(data)
        self.registry.give_up(process_id, give_back=give_back)
        self.took = {own: took for own, took in self.took.items() if took != process_id}
        for key, kept in list(self.kept.items()):
            if kept.process_id == process_id:
                del self.kept[key]
                if give_back and kept.before is not None:
                    self.kept[key] = Kept(kept.before, None)
            elif kept.before == process_id:
                kept.before = None

    def draw_process(self, data: st.DataObject) -> str:
        """Draw a process: mostly one that has something to do with a kept key, sometimes any."""
        known = [kept.process_id for kept in self.kept.values()] + list(self.took.values())
        known += [kept.before for kept in self.kept.values() if kept.before is not None]
        everybody = [str(number) for number in range(1, self.number + 1)]
        return data.draw(st.sampled_from(known or everybody) | st.sampled_from(everybody))

    def ready_to_launch(self) -> list[Claim]:
        heads = self.without_key + [queue[0] for queue in self.queues.values() if queue]
        return [own for own in heads if own not in self.launched]

    @invariant()
    def it_agrees_with_the_queues(self) -> None:
        assert self.registry.queued == sum(max(0, len(queue) - 1) for queue in self.queues.values())
        assert [info.process_id for info in self.registry.find(ProcessFilter())] == list(self.launched.values())
        for queue in self.queues.values():
            for position, own in enumerate(queue):
                assert own.is_waiting is (position > 0)
                assert len(list(self.registry.successors(own))) == len(queue) - 1
                assert self.registry.holder_of(own) is queue[0].holder

    @invariant()
    def it_agrees_with_what_is_kept(self) -> None:
        known = {kept.process_id for kept in self.kept.values()} | set(self.took.values())
        known |= {kept.before for kept in self.kept.values() if kept.before is not None}
        for process_id in map(str, range(1, self.number + 1)):
            info = self.registry.kept_for(process_id)
            assert (info is not None) is (process_id in known)
            assert info is None or info.process_id == process_id

    @invariant()
    def it_holds_as_many_slots_as_there_are_processes_and_kept_keys(self) -> None:
        try:
            own = claim(self.registry, None)
        except ProcessLimitError:
            assert self.held == self.MOST
        else:
            assert self.held < self.MOST
            self.registry.release(own)


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
