"""Who waits for a process of a pool, in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spindle_trio._pools._line import Line


def test_who_came_first_goes_first() -> None:
    line: Line[str] = Line(10)
    for name in "abc":
        line.join(name)
    assert [line.pop() for _ in "abc"] == ["a", "b", "c"]
    assert len(line) == 0


def test_those_without_room_wait_for_it_in_the_same_order() -> None:
    line: Line[int] = Line(2)
    for number in range(5):
        line.join(number)
    assert (line.waiting, line.held_up) == (2, 3)
    line.leave(0)
    assert (line.waiting, line.held_up) == (2, 2)
    assert [line.pop() for _ in range(4)] == [1, 2, 3, 4]


@given(
    st.lists(st.tuples(st.sampled_from(["join", "join at head", "pop", "leave"]), st.integers(0, 30))),
    st.integers(0, 5),
)
def test_it_does_what_a_list_would(steps: list[tuple[str, int]], room: int) -> None:
    line: Line[int] = Line(room)
    model: list[int] = []
    for number, (step, which) in enumerate(steps):
        if step.startswith("join"):
            line.join(number, at_head="head" in step)
            model.insert(0 if "head" in step else len(model), number)
        elif model and step == "pop":
            assert line.pop() == model.pop(0)
        elif model:
            line.leave(model.pop(which % len(model)))
        assert len(line) == len(model)
        assert line.waiting == min(room, len(model))
        assert line.waiting + line.held_up == len(model)
