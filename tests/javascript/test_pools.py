"""A pool of JavaScript processes."""

from __future__ import annotations

import pytest

from spindle_trio import CallFailedError, CallTimeoutError, ProcessLostError, open_pool
from support.javascript import Stage

TOOLS = """
export const calls = {
  square: (n) => n * n,
  fail: (text) => { throw new RangeError(text); },
  loop: () => { for (;;); },
  exit: () => process.exit(3),
  *count(to) { for (let n = 0; n < to; n += 1) yield n; },
};
"""


async def test_a_pool_of_javascript_processes_survives_its_calls(stage: Stage) -> None:
    async with stage.host(cancel_grace=0.1), open_pool(stage.worker, stage.write(TOOLS), size=2) as pool:
        assert [answer async for answer in pool.map("square", range(10))] == [n * n for n in range(10)]
        with pytest.raises(CallFailedError, match="no luck"):
            await pool.call("fail", "no luck")
        with pytest.raises(CallTimeoutError):
            await pool.call("loop", timeout=0.2)
        with pytest.raises(ProcessLostError) as lost:
            await pool.call("exit")
        assert lost.value.handed_over
        async with pool.stream("count", 4) as items:
            assert [item async for item in items] == [0, 1, 2, 3]
        assert await pool.call("square", 7) == 49
