"""How the paths of a sandbox are found, and what is said of those that cannot be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from spindle_trio import READ_ONLY, Sandbox, SandboxError
from spindle_trio.abc import ResolvedEntry, SandboxRules
from spindle_trio.launchers._sandbox_paths import DEVICES, outermost, resolve_sandbox
from spindle_trio.launchers._sandbox_runtime import installation_of, python_runtime, system_runtime


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root/data/inner", "beside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/entry.py").touch()
    (tmp_path / "root/data/file").touch()
    (tmp_path / "root/link").symlink_to("data")
    return tmp_path / "root"


def resolve(root: Path, sandbox: Sandbox, runtime: Sequence[str] = ()) -> SandboxRules:
    return resolve_sandbox(sandbox, ResolvedEntry("entry.py", root / "entry.py"), root, runtime)


def test_names_become_paths(root: Path) -> None:
    rules = resolve(root, READ_ONLY, ["/usr", "/lib/x"])
    assert rules == SandboxRules(read=["/lib/x", str(root), "/usr"], write=sorted(DEVICES), private_write=True)


def test_a_folder_below_the_root_can_be_named(root: Path) -> None:
    rules = resolve(root, Sandbox(write=("@root/data",)))
    assert f"{root}/data" in rules.write
    assert not rules.private_write


def test_the_entry_can_be_read_whatever_else_can_be(root: Path) -> None:
    assert resolve(root, Sandbox(read=(), write=())).read == [f"{root}/entry.py"]


def test_the_root_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other").symlink_to(root)
    assert str(root) in resolve(tmp_path / "other", READ_ONLY).read


def test_what_lies_in_an_allowed_folder_is_not_named_again(root: Path) -> None:
    rules = resolve(root, Sandbox(read=("@root", "/usr"), write=("@root/data",)), ["/usr/lib", f"{root}/data/inner"])
    assert rules.read == [str(root), "/usr"]
    assert resolve(root, Sandbox(read=("@root",), write=("@root",))).read == []


@pytest.mark.parametrize("name", ["read", "write", "deny"])
def test_a_path_that_does_not_exist_is_refused_and_named(root: Path, name: str) -> None:
    given = {"read": ("@root",), "write": (), name: ("@root/dta",)}
    with pytest.raises(SandboxError, match=rf"{name}: there is no '@root/dta' \(that is '{root}/dta'\); .* must exist"):
        resolve(root, Sandbox(**given))


@pytest.mark.parametrize("path", ["@root/link", "@root/link/inner"])
def test_a_path_through_a_link_is_refused_with_where_it_leads(root: Path, path: str) -> None:
    target = f"{root}/{path[6:].replace('link', 'data')}"
    with pytest.raises(SandboxError, match=f"write: '{path}' .* leads through a link, to '{target}'; name that"):
        resolve(root, Sandbox(read=(), write=(path,)))


def test_a_path_below_a_file_is_refused_with_the_reason(root: Path) -> None:
    with pytest.raises(SandboxError, match=r"read: .* cannot be used: Not a directory"):
        resolve(root, Sandbox(read=(f"{root}/data/file/x",), write=()))


def test_a_path_that_is_too_long_is_refused_with_the_reason(root: Path) -> None:
    with pytest.raises(SandboxError, match=r"read: .* cannot be used: File name too long"):
        resolve(root, Sandbox(read=("/" + "x" * 300,), write=()))


def test_a_path_in_the_root_cannot_be_read_only_where_the_root_can_be_changed(root: Path) -> None:
    with pytest.raises(SandboxError, match=f"read: '{root}/data' lies in '{root}', which may be changed, and read can"):
        resolve(root, Sandbox(read=(f"{root}/data",), write=("@root",)))


def test_a_denied_path_leaves_what_stands_beside_it(root: Path) -> None:
    rules = resolve(root, Sandbox(read=("@root",), write=(), deny=("@root/data/inner",)))
    assert rules.read == [f"{root}/data/file", f"{root}/entry.py"], (
        "the link is followed to where it leads, if it is named"
    )


def test_a_denied_path_is_taken_out_of_what_may_be_changed(root: Path) -> None:
    rules = resolve(root, Sandbox(read=(), write=("@root",), deny=(f"{root}/data",)))
    assert set(rules.write) == {f"{root}/entry.py", *DEVICES}


def test_a_folder_on_the_way_to_denied_files_can_be_listed_but_not_one_to_a_folder(root: Path) -> None:
    def listed(*deny: str) -> Sequence[str]:
        return resolve(root, Sandbox(read=("@root",), write=(), deny=deny)).listed

    (root / "secret").touch()
    assert listed("@root/secret") == (str(root),)
    assert listed("@root/secret", "@root/data/file") == (str(root),)
    assert listed("@root/data/inner") == ()
    assert listed("@root/data") == ()
    (root / "other").mkdir()
    (root / "other/file").touch()
    assert listed("@root/data/inner", "@root/other/file") == (f"{root}/other",)
    assert listed() == ()


def test_a_denied_path_that_holds_an_allowed_one_is_refused(root: Path) -> None:
    with pytest.raises(SandboxError, match=f"deny: '{root.parent}' holds '{root}', which read allows; name one of"):
        resolve(root, Sandbox(deny=(str(root.parent),)))


def test_a_denied_path_that_nothing_allows_is_refused(root: Path) -> None:
    with pytest.raises(SandboxError, match=f"deny: nothing allows '{root.parent}/beside'"):
        resolve(root, Sandbox(deny=(f"{root.parent}/beside",)))


def test_too_much_beside_a_denied_path_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spindle_trio.launchers._sandbox_paths._MOST_BESIDE", 1)
    with pytest.raises(SandboxError, match="deny: more than 1 things stand beside what it names; name smaller folders"):
        resolve(root, Sandbox(read=("@root",), deny=("@root/data/inner",)))


def test_a_root_that_is_gone_is_named(root: Path) -> None:
    with pytest.raises(SandboxError, match=r"the root '.*/gone' of a sandbox cannot be used: .*No such file"):
        resolve(root.parent / "gone", READ_ONLY)


def test_only_the_outermost_of_several_paths_are_kept() -> None:
    assert outermost(["/b/c", "/a", "/a/b", "/ab", "/a-b", "/b/c/d", "/a"]) == ["/a", "/a-b", "/ab", "/b/c"]
    assert outermost(["/x", "/"]) == ["/"]


def test_the_runtime_has_no_links_and_exists() -> None:
    for path in {*python_runtime(), *system_runtime()} - {"/proc/self"}:
        assert os.path.realpath(path) == path
        assert os.path.exists(path)


def test_the_runtime_never_opens_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home/ada"
    (home / "lib").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("sys.path", ["", str(tmp_path), str(home), str(home / "lib"), "/"])
    monkeypatch.chdir(home)
    folders = [path for path in python_runtime() if path.startswith(str(tmp_path)) or path == "/"]
    assert folders == [str(home / "lib")]


def test_a_program_has_its_installation(tmp_path: Path) -> None:
    for name in ("node-20/bin", "bin", "tools"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "node-20/bin/node").touch()
    (tmp_path / "tools/tool").touch()
    (tmp_path / "bin/node").symlink_to("../node-20/bin/node")
    assert f"{tmp_path}/node-20" in installation_of(f"{tmp_path}/node-20/bin/node")
    assert installation_of(f"{tmp_path}/tools/tool") == [f"{tmp_path}/tools/tool"]
    assert f"{tmp_path}/node-20" in installation_of(f"{tmp_path}/bin/node") or str(tmp_path) in installation_of(
        f"{tmp_path}/bin/node"
    )
