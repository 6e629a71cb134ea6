"""Programs that speak JSON-RPC, well or not: real processes of a small server that does what it is told."""

from __future__ import annotations

import json
import random
import select
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from spindle_trio import (
    CallFailedError,
    CallTimeoutError,
    Command,
    Limits,
    PayloadError,
    ProcessHandle,
    ProcessLostError,
    StreamChannel,
    UnknownMethodError,
    connect_worker,
    open_host,
)
from support.fork_server import fork_host

pytestmark = pytest.mark.quick(1)

BOTH = pytest.mark.parametrize("framing", ["lines", "headers"])
SERVER = Path(__file__).parents[1] / "support" / "json_rpc_server.py"
LANES = {"lines": "jsonrpc", "headers": "jsonrpc-headers"}


@pytest.fixture(autouse=True)
def output(caplog: pytest.LogCaptureFixture) -> None:
    """Have what processes print in `caplog`."""
    caplog.set_level("INFO", "spindle_trio.process")


@asynccontextmanager
async def server(root: Path, framing: str, **options: Any) -> AsyncIterator[ProcessHandle]:
    """Open a host, and spawn the server."""
    async with fork_host(root, **options) as forked:
        command = Command([sys.executable, "-SE", SERVER, framing], lane=LANES[framing])
        yield await forked.worker.backend_processes.spawn(command)


@BOTH
async def test_a_call_is_a_request_and_its_answer_the_result(tmp_path, framing):
    async with server(tmp_path, framing) as handle:
        params = {"text": "ä\u2028\n\r" * 100, "list": [1, None, 1.5]}
        assert await handle.call("echo", params) == params
        assert await handle.call("echo", [1]) == [1]
        assert await handle.call("echo") is None


@BOTH
async def test_an_error_of_the_server_is_raised_with_code_message_and_data(tmp_path, framing):
    async with server(tmp_path, framing) as handle:
        with pytest.raises(CallFailedError, match="JsonRpcError -32601: no such tool") as caught:
            await handle.call("fail", {"code": -32601, "message": "no such tool", "data": {"known": ["a"]}})
        assert (caught.value.error_type, caught.value.text) == ("JsonRpcError", "no such tool")
        assert (caught.value.code, caught.value.data) == (-32601, {"known": ["a"]})
        assert caught.value.traceback is None
        assert await handle.call("echo", ["alive"]) == ["alive"]


@pytest.mark.slow
@BOTH
async def test_calls_run_at_a_time_and_are_answered_in_any_order(tmp_path, framing):
    names = [str(number) for number in range(20)]
    answers: dict[str, object] = {}
    async with server(tmp_path, framing) as handle:

        async def hold(name: str) -> None:
            answers[name] = await handle.call("hold", {"name": name})

        async with handle.messages() as messages, trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(hold, name)
            for _ in names:
                assert (await messages.receive())["method"] == "holding"
            for name in reversed(names):
                await handle.send({"method": "release", "params": {"name": name}})
        assert answers == {name: {"name": name} for name in names}


@BOTH
async def test_a_message_is_a_notification_and_comes_before_the_call_behind_it(tmp_path, framing):
    async with server(tmp_path, framing) as handle:
        for number in range(300):
            await handle.send({"method": "note", "params": [number]})
            if number % 100 == 99:
                heard = await handle.call("heard")
                assert [note["params"][0] for note in heard] == list(range(number + 1))
        assert heard[0] == {"method": "note", "params": [0]}


@BOTH
async def test_a_request_of_the_server_is_a_message_and_its_answer_too(tmp_path, framing):
    async with server(tmp_path, framing) as handle, handle.messages() as messages, trio.open_nursery() as nursery:

        async def answer(**fields: object) -> None:
            asked = await messages.receive()
            assert asked == {"id": "q1", "method": "question", "params": [1]}
            await handle.send({"id": asked["id"], **fields})

        nursery.start_soon(lambda: answer(result={"yes": True}))
        assert await handle.call("ask", {"id": "q1"}) == {"yes": True}
        nursery.start_soon(lambda: answer(error={"code": 1, "message": "no"}))
        assert await handle.call("ask", {"id": "q1"}) == {"code": 1, "message": "no"}


@pytest.mark.parametrize(
    ("framing", "told"),
    [
        ("lines", {"method": "notifications/cancelled", "params": {"requestId": 1}}),
        ("headers", {"method": "$/cancelRequest", "params": {"id": 1}}),
    ],
)
async def test_a_call_that_is_cancelled_is_cancelled_in_the_server(tmp_path, caplog, framing, told):
    async with server(tmp_path, framing) as handle:
        async with handle.messages() as messages, trio.open_nursery() as nursery:
            nursery.start_soon(handle.call, "hold", {"name": "x"})
            await messages.receive()  # it has begun
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                heard = (await messages.receive())["params"]
        heard["params"].pop("reason", None)
        assert heard == told
        await handle.send({"method": "release", "params": {"name": "x"}})  # too late, and no harm
        assert await handle.call("echo", [2]) == [2]
        assert "answer to request" not in caplog.text


@pytest.mark.slow
@BOTH
async def test_the_server_is_told_at_the_deadline_also_while_the_host_stands_still(tmp_path, framing):
    """The time that is left travels with the call, and runs out in the shim."""
    told = tmp_path / "told"
    async with server(tmp_path, framing) as handle, handle.messages() as messages:
        await handle.send({"method": "tell", "params": {"path": str(told)}})

        async def hold() -> None:
            with pytest.raises(CallTimeoutError):
                await handle.call("hold", {"name": "x"}, timeout=0.4)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await messages.receive()
            for _ in range(500):
                if not told.exists():
                    select.select([], [], [], 0.01)  # the host's loop stands still
            assert told.exists()


async def test_initialize_is_never_cancelled_by_a_notification(tmp_path):
    async with server(tmp_path, "lines") as handle, handle.messages() as messages:
        for method in ("initialize", "hold"):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle.call, method, {"name": method})
                assert (await messages.receive())["method"] == "holding"
                nursery.cancel_scope.cancel()
        assert (await messages.receive())["method"] == "told"
        (told,) = await handle.call("heard")
        assert told["params"]["requestId"] == 2


@pytest.mark.slow
async def test_a_language_server_that_does_not_give_up_is_killed_if_its_caller_wants_that(tmp_path):
    async with server(tmp_path, "headers", cancel_grace=0.5) as handle:
        await handle.send({"method": "obey"})
        with pytest.raises(CallTimeoutError):
            await handle.call("hold", {"name": "x"}, timeout=0.05, overrun="kill")
        assert await handle.call("echo", [1]) == [1]  # it has answered the cancelled request before
        with pytest.raises(CallTimeoutError):
            await handle.call("sleep", timeout=0.05, overrun="kill")
        assert (await handle.wait_ended()).state == "timed_out"


@BOTH
async def test_answers_twice_to_nobody_and_in_batches_disturb_no_other(tmp_path, caplog, framing):
    one = '{"jsonrpc":"2.0","id":ID,"result":%d}'
    async with server(tmp_path, framing) as handle, handle.messages() as messages:
        assert await handle.call("frames", [one % 1, one % 2]) == 1
        assert await handle.call("frames", ['{"id":99,"result":0}', '{"id":"x","result":0}', one % 3]) == 3
        batch = '[{"jsonrpc":"2.0","method":"note"},7,%s]'
        assert await handle.call("frames", [batch % (one % 4)]) == 4
        assert await handle.call("frames", ['{"id":"ID","result":5}']) == 5
        assert await messages.receive() == {"method": "note"}
        with pytest.raises(CallFailedError, match="neither a result nor an error"):
            await handle.call("frames", ['{"jsonrpc":"2.0","id":ID}'])
        with pytest.raises(CallFailedError, match="boom"):
            await handle.call("frames", ['{"jsonrpc":"2.0","id":ID,"error":"boom"}'])
        await handle.stop()
    output = caplog.text
    assert "an answer to request 1, which was answered or cancelled before" in output
    assert "an answer to request 99, which never was" in output
    assert "an answer without an id that was ever given" in output
    assert "a member of a batch that is no object" in output


@BOTH
async def test_broken_json_is_reported_and_the_next_answer_is_read(tmp_path, caplog, framing):
    one = '{"jsonrpc":"2.0","id":ID,"result":1}'
    async with server(tmp_path, framing) as handle:
        for broken in ('{"jsonrpc":"2.0","id":', "[]", "17", "[" * 50_000, '{"id":1,"result":NaN}', '{"x":1}'):
            assert await handle.call("frames", [broken, one]) == 1
        error = '{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what?"}}'
        assert await handle.call("frames", [error, one]) == 1
        await handle.stop()
    assert "an error about no request: -32700: what?" in caplog.text
    if framing == "headers":
        assert caplog.text.count("a message that is") == 6


@BOTH
async def test_plain_text_on_stdout_is_output_and_no_message(tmp_path, caplog, framing):
    async with server(tmp_path, framing) as handle:
        text = "INFO: loading…\n\nWARNING: x: y\n".encode().decode("latin-1")
        assert await handle.call("raw", {"text": text, "answers": True}) == "ok"
        await handle.send({"method": "raw", "params": {"text": "x" * 1000, "times": 100}})  # and no end of a line
        await handle.send({"method": "raw", "params": {"text": "\n"}})
        assert await handle.call("echo", [1]) == [1]
        await handle.stop()
    messages = [record.getMessage() for record in caplog.records]
    assert any(message.endswith(": INFO: loading…") for message in messages)
    assert any("x" * 1000 in message for message in messages)


@BOTH
async def test_a_message_longer_than_the_bound_breaks_the_protocol(tmp_path, framing):
    async with server(tmp_path, framing, limits=Limits(frame_bytes=10_000)) as handle:
        assert len(await handle.call("huge", {"size": 9_900})) == 9_900
        with pytest.raises(ProcessLostError):
            await handle.call("huge", {"size": 20_000})
        assert (await handle.wait_ended()).state == "failed"
        assert "the program has broken JSON-RPC: it " in str(handle.info.error)
        assert "(Limits.frame_bytes)" in str(handle.info.error)


async def test_a_header_of_4_gib_breaks_the_protocol_before_any_of_it_is_read(tmp_path):
    async with server(tmp_path, "headers") as handle:
        with pytest.raises(ProcessLostError, match="announced a message of 4294967296 bytes"):
            await handle.call("raw", {"text": "Content-Length: 4294967296\r\n\r\n"})


@pytest.mark.slow
@BOTH
async def test_an_answer_of_many_megabytes_arrives(tmp_path, framing):
    async with server(tmp_path, framing) as handle:
        assert await handle.call("huge", {"size": 8_000_000}) == "x" * 8_000_000


@BOTH
@pytest.mark.parametrize("value", ["123456789012345678901234567890", '"\\ud800"', "[" * 80 + "]" * 80])
async def test_what_cannot_be_passed_on_fails_its_call_and_nothing_else(tmp_path, caplog, framing, value):
    said = f'{{"jsonrpc":"2.0","method":"note","params":[{value}]}}'
    asked = f'{{"jsonrpc":"2.0","id":"q","method":"question","params":[{value}]}}'
    one = '{"jsonrpc":"2.0","id":ID,"result":1}'
    async with server(tmp_path, framing) as handle:
        with pytest.raises(CallFailedError, match="PayloadError"):
            await handle.call("frames", [f'{{"jsonrpc":"2.0","id":ID,"result":{value}}}'])
        with pytest.raises(CallFailedError, match="its data is left out") as caught:
            await handle.call("frames", [f'{{"id":ID,"error":{{"code":1,"message":"no","data":{value}}}}}'])
        assert caught.value.code == 1
        assert await handle.call("frames", [said, asked, one]) == 1
        (answer,) = await handle.call("heard")
        assert (answer["id"], answer["error"]["code"]) == ("q", -32603)
        await handle.stop()
    assert caplog.text.count("a message that cannot be passed on: payload.params[0]") == 2


@pytest.mark.slow
@BOTH
async def test_a_flood_of_notifications_is_taken_in_while_a_call_waits(tmp_path, framing):
    async with server(tmp_path, framing) as handle, handle.messages() as messages, trio.open_nursery() as nursery:
        seen: list[object] = []

        async def read() -> None:
            while True:
                seen.extend(message["params"][0] for message in await messages.receive_many())

        nursery.start_soon(read)
        assert await handle.call("flood", {"count": 5000}) == 5000
        assert await handle.call("echo", [1]) == [1]
        while len(seen) < 5000:
            await trio.sleep(0.01)
        assert seen == list(range(5000))
        nursery.cancel_scope.cancel()


@BOTH
async def test_a_server_that_exits_loses_its_calls_and_says_how_it_ended(tmp_path, framing):
    async with server(tmp_path, framing) as handle, trio.open_nursery() as nursery:

        async def lose(method: str, params: object) -> None:
            with pytest.raises(ProcessLostError, match="exited with code 3") as caught:
                await handle.call(method, params)
            assert caught.value.handed_over

        nursery.start_soon(lose, "hold", {"name": "x"})
        nursery.start_soon(lose, "exit", {"code": 3})


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(("fd", "text"), [(1, "closed its stdout"), (0, "closed its stdin")])
async def test_a_server_that_closes_a_stream_and_lives_on_fails_the_calls_it_cannot_answer(tmp_path, framing, fd, text):
    async with server(tmp_path, framing) as handle:
        with trio.fail_after(5):
            if fd == 0:
                assert await handle.call("close", {"fd": 0}) == "ok"
                refused = "echo"
            else:
                refused = "close"
            for _ in range(2):
                with pytest.raises(CallFailedError, match=f"ProgramError: the program has {text}"):
                    await handle.call(refused, {"fd": fd})
        assert handle.state == "running"


async def test_what_is_no_params_and_a_stream_are_refused(tmp_path):
    async with server(tmp_path, "lines") as handle:
        for params in (1, "x", True):
            with pytest.raises(PayloadError, match=r"payload: the params .* are a dict or a list"):
                await handle.call("echo", params)
        with pytest.raises((CallFailedError, PayloadError)):
            await handle.call("echo", [b"bytes"])
        with pytest.raises(CallFailedError, match="use call"):
            async with handle.stream("echo") as items:
                await items.receive()
        assert await handle.call("echo", [1]) == [1]


@pytest.mark.slow
@BOTH
async def test_the_other_framing_is_named_to_who_looks_at_the_output(tmp_path, caplog, framing):
    other = "headers" if framing == "lines" else "lines"
    async with fork_host(tmp_path) as forked:
        command = Command([sys.executable, "-SE", SERVER, other], lane=LANES[framing])
        handle = await forked.worker.backend_processes.spawn(command)
        said = {"lines": "Content-Length: 2\r\n\r\n{}\n", "headers": '{"jsonrpc":"2.0","id":1,"result":1}\n'}[framing]
        program = f"import sys; sys.stdout.write({said!r}); sys.stdout.flush(); sys.stdin.read()"
        await handle.stop()
        command = Command([sys.executable, "-SE", "-c", program], lane=LANES[framing])
        handle = await forked.worker.backend_processes.spawn(command)
        with pytest.raises(CallTimeoutError):
            await handle.call("echo", timeout=0.3)
        await handle.stop()
    assert f"use lane={LANES[other]!r}" in caplog.text


@pytest.mark.slow
@BOTH
async def test_a_call_that_was_not_written_when_it_was_cancelled_never_is(tmp_path, framing):
    async with server(tmp_path, framing) as handle:
        await handle.send({"method": "pause", "params": {"seconds": 0.5}})
        await handle.send({"method": "note", "params": ["x" * 500_000]})  # more than the program's pipe holds
        with pytest.raises(CallTimeoutError):
            await handle.call("echo", timeout=0.1)
        assert await handle.call("asked") == ["asked"]
        assert await handle.call("count") == 2  # and nothing about a cancelled request


@pytest.mark.slow
@BOTH
async def test_messages_that_are_stuck_are_not_overtaken_by_a_call(tmp_path, framing):
    """What fills all buffers on the way: the program reads nothing meanwhile."""
    texts = ["x" * 100_000] * 40
    async with server(tmp_path, framing) as handle, trio.open_nursery() as nursery:
        await handle.send({"method": "pause", "params": {"seconds": 0.3}})

        async def send_all() -> None:
            for text in texts:
                await handle.send({"method": "note", "params": [text]})
            heard = await handle.call("count")
            assert heard == len(texts) + 1

        nursery.start_soon(send_all)


@pytest.mark.parametrize("lane", ["none", "lines"])
async def test_a_command_without_json_rpc_takes_no_calls_and_the_error_says_what_to_do(tmp_path, lane):
    async with fork_host(tmp_path) as forked:
        handle = await forked.worker.backend_processes.spawn(Command(["sleep", "60"], lane=lane))
        with pytest.raises(UnknownMethodError, match="lane='jsonrpc'"):
            await handle.call("echo")


@pytest.mark.slow
@BOTH
async def test_any_garbage_between_messages_loses_no_answer(tmp_path, framing):
    chance = random.Random(framing)
    async with server(tmp_path, framing) as handle:
        for number in range(60):
            garbage = chance.choice([
                chance.randbytes(chance.randrange(200)).decode("latin-1"),
                "{" * chance.randrange(300),
                json.dumps({"id": chance.choice([None, 1, -1, 10**30, "x", [], 1e300]), "result": 1}),
                '{"id":1e999,"method":"q"}',
                '{"id":1,"error":1e999}',
                '{"method":"n","params":[1e999]}',
                f'{{"id":{"9" * 3000},"method":"q","params":{"[" * 500 + "]" * 500}}}',
                json.dumps([{"method": ""}, {"id": 0, "error": 0}, None]),
                "Content-Length: " + chance.choice(["-1", "x", "", "1_0"]) + "\r\n\r\n",
            ])  # fmt: skip
            with trio.fail_after(10):
                assert await handle.call("raw", {"text": f"{garbage}\n", "answers": True}) == "ok", garbage
                assert await handle.call("echo", [number]) == [number], garbage


@pytest.mark.slow
async def test_a_worker_at_the_other_end_of_a_stream_calls_a_program_as_well(tmp_path):
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_host(commands=lambda _: True) as host, trio.open_nursery() as nursery:
        channel = StreamChannel(theirs, max_line_bytes=20_000)
        nursery.start_soon(partial(host.serve_worker, channel, "far", root=tmp_path, user_id="ada"))
        async with connect_worker(StreamChannel(ours)) as worker:
            command = Command([sys.executable, "-SE", SERVER, "headers"], lane="jsonrpc-headers")
            handle = await worker.backend_processes.spawn(command)
            async with handle.messages() as messages:
                for number in range(100):
                    await handle.send({"method": "note", "params": [number]})
                assert len(await handle.call("heard")) == 100
                with pytest.raises(CallFailedError) as caught:
                    await handle.call("fail", {"code": -1, "message": "no", "data": [None, {"x": 1.5}]})
                assert (caught.value.code, caught.value.data) == (-1, [None, {"x": 1.5}])
                with pytest.raises(CallFailedError, match="no") as caught:  # its data makes the line too long
                    await handle.call("fail", {"code": -1, "message": "no", "data": "x" * 19_700})
                assert (caught.value.code, caught.value.text, caught.value.data) == (-1, "no", None)
                with pytest.raises(PayloadError, match="dict or a list"):
                    await handle.call("echo", 5)
                await handle.send({"method": "hold", "params": {"name": "x"}})
                assert (await messages.receive())["method"] == "holding"
                with pytest.raises(PayloadError, match="'method'"):
                    await handle.send({"no": "message"})
