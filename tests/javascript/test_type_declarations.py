"""The declarations for JavaScript entries say what the runtime has, and nothing besides."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import trio

from spindle_trio import DefaultLauncher, open_host
from spindle_trio.javascript import TYPES, WORKER
from support.javascript import needs_node

DECLARATIONS = TYPES.read_text(encoding="utf-8")
GUARD_SECONDS = 60
TYPED = Path(__file__).with_name("typed")

TSC = shutil.which("tsc")
TSC_OPTIONS = ["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noEmit"]
TSC_OPTIONS += ["--module", "nodenext", "--target", "es2023", "--lib", "es2023,dom"]

SHOWS_ITS_CONTEXT = """
    export default async function run(process) {
      process.onStop((notice) => {
        process.complete({ stop: Object.getOwnPropertyNames(notice) });
      });
      process.ready();
      const members = {};
      for (const name of Object.getOwnPropertyNames(process)) {
        try {
          members[name] = typeof process[name];
        } catch (error) {
          members[name] = error.message; // `call`, outside of one
        }
      }
      let refusal;
      try {
        process.send("x".repeat(2 ** 25));
      } catch (error) {
        refusal = { name: error.name, isTypeError: error instanceof TypeError };
      }
      process.send({ members, refusal });
    }
"""


def members(interface: str) -> dict[str, str]:
    """Find what an interface declares: each member, with its type."""
    match = re.search(rf"^export interface {interface}\b.*?\{{\n(.*?)^\}}", DECLARATIONS, re.MULTILINE | re.DOTALL)
    assert match is not None, interface
    text = re.sub(r"/\*\*.*?\*/", "", match[1], flags=re.DOTALL)
    found = dict(re.findall(r"^  readonly (\w+)\??: (.*?);$", text, re.MULTILINE | re.DOTALL))
    assert len(found) == len(re.findall(r";\s*$", text, re.MULTILINE)), "each member begins a line"
    return found


@needs_node
async def test_a_context_has_what_is_declared_and_nothing_besides(tmp_path: Path) -> None:
    (tmp_path / "entry.mjs").write_text(SHOWS_ITS_CONTEXT, encoding="utf-8")
    with trio.fail_after(GUARD_SECONDS):
        async with (
            open_host(DefaultLauncher(preload=())) as host,
            host.open_worker("tests", root=tmp_path, user_id="ada") as worker,
        ):
            handle = await worker.backend_processes.spawn("entry.mjs", key="k", payload={}, metadata={"ticket": 7})
            shown = await handle.messages().receive()
            await handle.stop(reason="enough")
    assert isinstance(shown, dict)
    declared = members("ProcessContext")
    actual = shown["members"]
    assert isinstance(actual, dict)
    assert set(actual) == set(declared)
    assert actual["call"] == "process.call is there inside a handler of a call, while it serves one"
    functions = {name for name, kind in declared.items() if "=>" in kind}
    assert {name for name, kind in actual.items() if kind == "function"} == functions
    assert {name for name, kind in actual.items() if kind in {"string", "number"}} == {
        name for name, kind in declared.items() if kind in {"string", "number"}
    }
    assert handle.result == {"stop": list(members("StopNotice"))}
    assert shown["refusal"] == {"name": "PayloadError", "isTypeError": True}
    assert members("PayloadError")["name"] == '"PayloadError"'


def test_every_member_is_described() -> None:
    for interface in ("ProcessContext", "StopNotice", "Call"):
        for name in members(interface):
            assert re.search(rf"\*/\n  readonly {name}\b", DECLARATIONS), name


def test_the_declarations_are_plain_text() -> None:
    """They are printed on terminals of any encoding."""
    assert DECLARATIONS.isascii()
    assert max(map(len, DECLARATIONS.splitlines())) <= 120


def test_the_types_of_the_worker_name_what_it_exports() -> None:
    declared = re.findall(r"^export (?:class|function) (\w+)", WORKER.with_suffix(".d.mts").read_text(), re.MULTILINE)
    source = WORKER.read_text(encoding="utf-8")
    exported = re.findall(r"^export (?:class|function) (\w+)", source, re.MULTILINE)
    for names in re.findall(r"^export \{ (.*) \} from", source, re.MULTILINE):
        exported += names.split(", ")
    assert sorted(declared) == sorted(exported)


@pytest.mark.skipif(TSC is None, reason="needs the TypeScript compiler, tsc, on the PATH: npm install -g typescript")
@pytest.mark.parametrize("name", [path.name for path in sorted(TYPED.iterdir())])
def test_code_in_typescript_compiles_strictly(tmp_path: Path, name: str) -> None:
    for path in (TYPES, WORKER.with_suffix(".d.mts"), TYPED / name):
        shutil.copy(path, tmp_path)
    command = [str(TSC), *TSC_OPTIONS, name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=GUARD_SECONDS, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
