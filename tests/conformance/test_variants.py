"""Scenarios of the same kind as the recorded ones that nobody has recorded: here the contract says what is expected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from conformance.changes import ENTRY, OWNER, answer, begins, event, message, refusal
from conformance.comparing import compare
from conformance.player import play
from conformance.recording import Output, Scenario
from spindle_trio.launchers import DefaultLauncher
from support.javascript import needs_node

pytestmark = [needs_node, pytest.mark.usefixtures("_surroundings")]

BEGUN: Final = begins("P1", "s1")
FAILED: Final = event("P1", "failed", "running", exitReason="failed", error=True)
NOT_STARTED: Final = (
    event("P1", "starting"),
    event("P1", "failed", "starting", exitReason="failed", error=True),
    refusal("s1"),
)
STOPPING: Final = (event("P1", "stopping", "running"), answer("st1", {"$js": "undefined"}))
STOPPED: Final = event("P1", "stopped", "stopping", exitReason="stopped")


def completed(previous: str = "running", **more: Any) -> Output:
    return event("P1", "completed", previous, exitReason="completed", **more)


def spawned(**options: Any) -> list[dict[str, Any]]:
    return [{"spawn": "s1", "options": {"entry": ENTRY} | options}, {"wait": {"resp": "s1"}}]


def sent(*payloads: object) -> list[dict[str, Any]]:
    return [{"send": payload, "p": "P1"} for payload in payloads]


def heard(count: int) -> dict[str, Any]:
    return {"wait": {"msg": "P1", "count": count}}


END: Final = [{"wait": {"state": "never"}}]
"""Waits until the process has ended."""

STOP: Final = [{"stop": "st1", "p": "P1"}, *END]


@attrs.frozen
class Variant:
    """A scenario with what is expected of it."""

    name: str
    source: str | Mapping[str, str]
    steps: Sequence[Mapping[str, Any]]
    expected: Sequence[Output]


VARIANTS: Final = [
    Variant(
        "a reason is passed on as it is",
        "export default (p) => { p.ready(); p.onStop((d) => { p.send(d); p.complete(); }); }",
        [*spawned(), {"stop": "st1", "p": "P1", "options": {"reason": "  why  "}}, *END],
        [*BEGUN, *STOPPING, message("P1", {"reason": "  why  "}), completed("stopping")],
    ),
    Variant(
        "an async clean-up function is waited for",
        "export default async (p) => { p.ready(); setTimeout(() => p.complete(1), 20); await 0;"
        " return async () => { await new Promise((r) => setTimeout(r, 50)); p.send('late'); }; }",
        [*spawned(), *END],
        [*BEGUN, message("P1", "late"), completed(result=1)],
    ),
    Variant(
        "the clean-up function runs once at a stop",
        "export default (p) => { p.ready(); return () => p.send('bye'); }",
        [*spawned(), *STOP],
        [*BEGUN, *STOPPING, message("P1", "bye"), STOPPED],
    ),
    Variant(
        "the clean-up function runs after an exception that nobody handles",
        "export default (p) => { p.ready(); setTimeout(() => { throw 1; }, 20); return () => p.send('bye'); }",
        [*spawned(), *END],
        [*BEGUN, message("P1", "bye"), FAILED],
    ),
    Variant(
        "a handler that is registered twice counts once",
        "export default (p) => { p.ready(); const f = (m) => p.send(m); p.onMessage(f); p.onMessage(f);"
        " p.onMessage(() => p.send('other')); }",
        [*spawned(), *sent(1, 2), heard(4)],
        [*BEGUN, *(message("P1", said) for said in (1, "other", 2, "other"))],
    ),
    Variant(
        "messages wait for the first handler, whatever they are",
        "export default (p) => { p.ready(); setTimeout(() => p.onMessage((m) => p.send([m])), 200); }",
        [*spawned(), *sent(1, "", None, False, {"__proto__": [1]}), heard(5)],
        [*BEGUN, *(message("P1", [said]) for said in (1, "", None, False, {"__proto__": [1]}))],
    ),
    Variant(
        "messages wait again once the last handler is taken back",
        "export default (p) => { p.ready(); const u = p.onMessage((m) => { p.send(['a', m]); u();"
        " setTimeout(() => p.onMessage((m) => p.send(['b', m])), 50); }); }",
        [*spawned(), *sent(1, 2, 3), heard(3)],
        [*BEGUN, *(message("P1", said) for said in (["a", 1], ["b", 2], ["b", 3]))],
    ),
    Variant(
        "an object may be exported",
        "module.exports = { run(p) { p.ready(); p.send('run'); } }",
        [*spawned(), heard(1)],
        [*BEGUN, message("P1", "run")],
    ),
    Variant(
        "a file in CommonJS may be called .js",
        "exports.run = (p) => { p.ready(); p.send(typeof require); }",
        [*spawned(), heard(1)],
        [*BEGUN, message("P1", "function")],
    ),
    Variant(
        "the default of a transpiled module comes first",
        "Object.defineProperty(exports, '__esModule', { value: true }); exports.run = () => {};"
        " exports.default = (p) => { p.ready(); p.send('default'); }",
        [*spawned(), heard(1)],
        [*BEGUN, message("P1", "default")],
    ),
    Variant(
        "files are imported statically and dynamically",
        {
            ENTRY: "import { x } from './o.mjs'; export const run = async (p) => { p.ready();"
            " p.send(x + (await import('./o.mjs')).x); }",
            "dist/o.mjs": "export const x = await Promise.resolve(3);",
        },
        [*spawned(), heard(1)],
        [*BEGUN, message("P1", 6)],
    ),
    Variant(
        "the first final word counts",
        "export default (p) => { p.ready(); p.complete(1); p.complete(2); p.fail('no'); throw new Error('late'); }",
        [*spawned(), *END],
        [*BEGUN, completed(result=1)],
    ),
    Variant(
        "an entry that completes before it is ready has completed",
        "export default (p) => p.complete(1)",
        spawned(),
        [event("P1", "starting"), completed("starting", result=1), refusal("s1") | {"result": 1}],
    ),
    Variant(
        "a file that exports no function has failed",
        "export const x = 1",
        spawned(),
        NOT_STARTED,
    ),
    Variant(
        "whatever is thrown can be told",
        "export default () => { throw { toString() { throw 1; }, get message() { throw 2; } }; }",
        spawned(),
        NOT_STARTED,
    ),
    Variant(
        "ready comes too late after a stop",
        "export default (p) => { p.send('up'); p.onStop(() => { p.ready(); p.heartbeat(); p.complete('x'); }); }",
        [spawned()[0], {"wait": {"state": "starting"}}, {"wait": {"msg": "P1"}}, *STOP],
        [
            event("P1", "starting"),
            message("P1", "up"),
            event("P1", "stopping", "starting"),
            answer("st1", {"$js": "undefined"}),
            refusal("s1"),
            completed("stopping", result="x"),
        ],
    ),
    Variant(
        "a process that is killed while it is stopping has stopped",
        "export default (p) => { p.ready(); p.onStop(() => p.send('asked')); }",
        [*spawned(), {"stop": "st1", "p": "P1"}, heard(1), {"kill": "SIGKILL", "p": "P1"}, *END],
        [*BEGUN, *STOPPING, message("P1", "asked"), STOPPED],
    ),
    Variant(
        "messages reach an entry that is stopping",
        "export default (p) => { p.ready(); p.onMessage((m) => { p.send(m); p.complete(); });"
        " p.onStop(() => p.send('asked')); }",
        [*spawned(), {"stop": "st1", "p": "P1"}, heard(1), *sent("m"), *END],
        [*BEGUN, *STOPPING, message("P1", "asked"), message("P1", "m"), completed("stopping")],
    ),
    Variant(
        "an entry may handle its own exceptions and rejections",
        "export default (p) => { p.ready(); process.on('uncaughtException', (e) => p.send(e));"
        " setTimeout(() => { throw 'thrown'; }, 10); setTimeout(() => { Promise.reject('rejected'); }, 50); }",
        [*spawned(), heard(2)],
        [*BEGUN, message("P1", "thrown"), message("P1", "rejected")],
    ),
    Variant(
        "the last messages arrive also from a process that kills itself",
        "export default (p) => { p.ready(); for (let i = 0; i < 3; i++) p.send(i);"
        " process.kill(process.pid, 'SIGKILL'); }",
        [spawned()[0], *END],
        [*BEGUN, message("P1", 0), message("P1", 1), message("P1", 2), FAILED],
    ),
    Variant(
        "a date, bytes and items that are undefined can be sent, and what is no JSON fails the process",
        "export default (p) => { p.ready(); const bare = [1]; bare.toJSON = () => undefined;"
        " for (const v of [[, 1], { a: new Date(0) }, [new Uint8Array(1)], 2 ** 64, -(2 ** 63), bare, 1n, 'after'])"
        " try { p.send(v); } catch (e) {} }",
        [*spawned(), *END],
        [
            *BEGUN,
            message("P1", [None, 1]),
            message("P1", {"a": "1970-01-01T00:00:00.000Z"}) | {"payloadTypes": [["date", "a"]]},
            message("P1", ["AA=="]) | {"payloadTypes": [["bytes", 0]]},
            message("P1", 2.0**64),
            message("P1", -(2**63)),
            message("P1", [1]),
            FAILED,
        ],
    ),
    Variant(
        "a worker that is unloaded has its processes stop",
        "export default (p) => { p.ready(); p.onStop((d) => { p.send('asked'); p.complete(3); }); }",
        [*spawned(), {"unload": "backend_unloaded"}],
        [
            *BEGUN,
            STOPPING[0],
            message("P1", "asked"),
            event("P1", "stopped", "stopping", exitReason="backend_unloaded"),
        ],
    ),
    Variant(
        "a start that is unloaded is answered",
        "export default (p) => p.onStop(() => p.complete())",
        [spawned()[0], {"wait": {"state": "starting"}}, {"unload": "backend_unloaded"}],
        [
            event("P1", "starting"),
            event("P1", "stopping", "starting"),
            refusal("s1"),
            event("P1", "stopped", "stopping", exitReason="backend_unloaded"),
        ],
    ),
    Variant(
        "a replaced process is asked, and gone before the next one begins",
        "export default (p) => { p.ready(); p.onStop((d) => { p.send(d); p.complete(3); }); }",
        [
            *spawned(key="k"),
            {"spawn": "s2", "options": {"entry": ENTRY, "key": "k", "replaceExisting": True}},
            {"wait": {"resp": "s2"}},
            {"alive": "P1"},
        ],
        [
            *begins("P1", "s1", key="k"),
            event("P1", "stopping", "running", key="k"),
            message("P1", {"reason": "replaced"}),
            event("P1", "stopped", "stopping", key="k", exitReason="replaced"),
            *begins("P2", "s2", key="k"),
        ],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
async def test_variant(variant: Variant, tmp_path: Path) -> None:
    files = {ENTRY: variant.source} if isinstance(variant.source, str) else variant.source
    scenario = Scenario(variant.name, OWNER, files, variant.steps, variant.expected, variant.expected, [])
    played = await play(scenario, tmp_path, DefaultLauncher(preload=()), grace_period=5.0)
    compare(variant.expected, played.outputs)


async def test_what_runs_javascript_but_cannot_be_run_fails_the_launch_after_the_replacement(tmp_path: Path) -> None:
    """As recorded for a missing program: here a missing one is noticed earlier, and a broken one is not."""
    program = tmp_path / "node"
    program.symlink_to(str(shutil.which("node")))
    source = "export default (p) => { p.ready(); p.onMessage(() => p.complete()); }"
    broken = tmp_path / "broken"
    broken.write_text("#!/nonexistent/node\n")
    os.chmod(broken, 0o755)  # noqa: S103  # it is to look like a program
    steps = [
        *spawned(key="k"),
        {"setenv": {"LUMIVERSE_BUN_PATH": str(broken)}},
        {"spawn": "s2", "options": {"entry": ENTRY, "key": "k", "replaceExisting": True}},
        {"wait": {"resp": "s2"}},
        {"list": "l1"},
    ]
    scenario = Scenario("broken", OWNER, {ENTRY: source}, steps, [], [], [])
    launcher = DefaultLauncher(node=str(program), preload=())
    played = await play(scenario, tmp_path, launcher, grace_period=5.0, program=program)
    compare(
        [
            *begins("P1", "s1", key="k"),
            event("P1", "stopping", "running", key="k"),
            event("P1", "stopped", "stopping", key="k", exitReason="replaced"),
            event("P2", "starting", key="k"),
            event("P2", "failed", "starting", key="k", exitReason="failed", error=True),
            refusal("s2"),
            answer("l1", []),
        ],
        played.outputs,
    )
