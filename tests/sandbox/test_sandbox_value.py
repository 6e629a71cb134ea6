"""The value `Sandbox`: what it takes, and what it says about what it does not take."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import attrs
import pytest

import spindle_trio
from spindle_trio import OFFLINE, READ_ONLY, WORKSPACE_WRITE, Sandbox, SandboxPart


def sandbox(**given: object) -> Sandbox:
    return Sandbox(**cast("dict[str, tuple[str, ...]]", given))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("@home", "read: there is no '@home'; a path is absolute, or begins with @runtime .*, @root .*, @tmp .*"),
        ("@Root", "read: there is no '@Root'"),
        ("data", "read: 'data' is not absolute, and does not begin with @runtime"),
        ("~/.ssh", r"read: '~/\.ssh' is not absolute, .*; type os\.path\.expanduser"),
        ("", "read: a path is blank"),
        ("/a/../b", r"read: '/a/\.\./b' has an empty part, '\.' or '\.\.' in it"),
        ("/a//b", "read: '/a//b' has an empty part"),
        ("/a/", "read: '/a/' has an empty part"),
        ("@root/", "read: '@root/' has an empty part"),
        ("@root/../b", r"read: '@root/\.\./b' has an empty part"),
        ("@runtime/lib", "read: '@runtime' stands for itself, and in read only"),
        ("@tmp/x", "read: .@tmp. stands for itself, and in read and write only"),
        ("/a\0b", "read: .* contains characters that no path may contain"),
        ("/a\ud800", "read: .* contains characters that no path may contain"),
    ],
)
def test_what_names_no_path_is_refused_and_named(path: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Sandbox(read=(path,))


@pytest.mark.parametrize("name", ["write", "deny"])
def test_the_runtime_can_only_be_read(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: '@runtime' stands for itself, and in read only"):
        sandbox(**{name: ("@runtime",)})


@pytest.mark.parametrize("value", ["/a", b"/a", None, 3])
def test_paths_are_a_sequence_and_not_one_text(value: object) -> None:
    with pytest.raises(TypeError, match="read must be a sequence of paths, as in read="):
        sandbox(read=value)


def test_a_path_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="write must be a sequence of paths; 3 is none"):
        sandbox(write=(3,))


def test_a_path_object_is_taken_as_its_text() -> None:
    assert Sandbox(read=[Path("/a")]).read == ("/a",)


@pytest.mark.parametrize("name", ["read", "write"])
@pytest.mark.parametrize(("holder", "held"), [("/a", "/a/b"), ("/", "/a"), ("@root", "@root/b")])
def test_two_paths_of_one_field_do_not_hold_each_other(name: str, holder: str, held: str) -> None:
    given: dict[str, object] = {"read": (), "write": ()}
    for paths in ((holder, held), (held, holder)):
        with pytest.raises(ValueError, match=f"^{name}: '{holder}' holds '{held}'; name only '{holder}'$"):
            sandbox(**given | {name: paths})


def test_a_path_is_not_there_twice() -> None:
    with pytest.raises(ValueError, match="read: '/a' is there twice; name only '/a'"):
        Sandbox(read=("/a", "/a"))


def test_names_that_only_begin_alike_hold_nothing() -> None:
    assert Sandbox(read=("/a", "/ab"), write=()).read == ("/a", "/ab")


def test_reading_alone_cannot_be_asked_for_below_what_may_be_changed() -> None:
    with pytest.raises(ValueError, match="read: '/a/b' lies in '/a', which may be changed, and read cannot take that"):
        Sandbox(read=("/a/b",), write=("/a",))


def test_the_same_path_may_be_in_both() -> None:
    assert Sandbox(write=("@root",)).write == ("@root",)


@pytest.mark.parametrize("denied", ["/a", "/a/b", "/"])
def test_what_is_allowed_is_not_denied_as_a_whole(denied: str) -> None:
    with pytest.raises(ValueError, match=f"deny: '{denied}' holds '/a/b', which read allows; name one of them"):
        Sandbox(read=("/a/b",), write=(), deny=(denied,))


def test_what_nothing_allows_need_not_be_denied() -> None:
    with pytest.raises(ValueError, match="deny: nothing allows '/b'; deny is for what lies in a path of read or write"):
        Sandbox(read=("/a",), write=(), deny=("/b",))


@pytest.mark.parametrize("network", ["all", None, True, ""])
def test_a_network_is_one_of_three(network: object) -> None:
    with pytest.raises(ValueError, match="network must be 'none', 'unix' or 'host', not "):
        sandbox(network=network)


def test_subprocesses_is_a_bool() -> None:
    with pytest.raises(TypeError, match="subprocesses must be a bool, not int"):
        sandbox(subprocesses=1)


def test_the_presets_say_what_they_allow() -> None:
    assert Sandbox() == READ_ONLY
    assert (READ_ONLY.read, READ_ONLY.write) == (("@runtime", "@root"), ("@tmp",))
    assert (WORKSPACE_WRITE.read, WORKSPACE_WRITE.write) == (("@runtime",), ("@root", "@tmp"))
    assert (OFFLINE.read, OFFLINE.write) == ((), ("/",))
    assert {preset.network for preset in (READ_ONLY, WORKSPACE_WRITE, OFFLINE)} == {"none"}


def test_a_sandbox_needs_the_parts_that_hold_it() -> None:
    everything = list(SandboxPart)[:6]
    assert READ_ONLY.needs() == WORKSPACE_WRITE.needs() == everything
    assert set(everything) - set(OFFLINE.needs()) == {"files", "truncate"}
    assert SandboxPart.FILES in attrs.evolve(OFFLINE, deny=("/etc",)).needs()
    assert SandboxPart.NETWORK not in attrs.evolve(READ_ONLY, network="host").needs()


def test_its_error_is_a_refusal() -> None:
    assert issubclass(spindle_trio.SandboxError, spindle_trio.SpawnRefusedError)
