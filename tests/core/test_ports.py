"""The worker API stands on two protocols: each that claims to be one has all of its methods, called alike."""

from __future__ import annotations

import inspect

import pytest

from spindle_trio import _ports
from spindle_trio._bridge._client import _RemoteHost
from spindle_trio._bridge._remote_process import RemoteProcess
from spindle_trio._process_record import ProcessRecord
from spindle_trio._worker_scope import WorkerScope


def methods_of(port: type) -> dict[str, inspect.Signature]:
    """List what a port lets be called."""
    return {
        name: inspect.signature(member)
        for base in port.__mro__
        for name, member in vars(base).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }


@pytest.mark.parametrize(
    ("port", "implementation"),
    [
        (_ports.ProcessPort, ProcessRecord),
        (_ports.ProcessPort, RemoteProcess),
        (_ports.ServingPort, WorkerScope),
        (_ports.WorkerPort, _RemoteHost),
    ],
)
def test_each_implementation_of_a_port_has_its_methods(port: type, implementation: type) -> None:
    """Type checkers see where one is passed on; this sees that none is left out of a port that nobody calls yet."""
    for name, promised in methods_of(port).items():
        method = getattr(implementation, name)
        assert inspect.iscoroutinefunction(method) is inspect.iscoroutinefunction(getattr(port, name)), name
        parameters = list(inspect.signature(method).parameters.values())
        wanted = list(promised.parameters)
        assert [parameter.name for parameter in parameters[: len(wanted)]] == wanted, name
        assert all(parameter.default is not parameter.empty for parameter in parameters[len(wanted) :]), name


def test_the_ports_promise_something() -> None:
    assert set(methods_of(_ports.ServingPort)) > set(methods_of(_ports.WorkerPort)) > {"spawn", "list", "stop"}
    assert set(methods_of(_ports.ProcessPort)) == {"send", "send_nowait", "statistics", "wait_ended"}
