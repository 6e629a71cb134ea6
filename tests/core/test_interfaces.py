"""The worker API stands on two protocols: each that claims to be one has all of its methods, called alike."""

from __future__ import annotations

import inspect

import pytest

from spindle_trio import _interfaces
from spindle_trio._host._worker_scope import WorkerScope
from spindle_trio._supervision._calls import ProcessCalls
from spindle_trio._supervision._supervised_process import SupervisedProcess
from spindle_trio._worker_protocol._remote_calls import RemoteCalls
from spindle_trio._worker_protocol._remote_process import RemoteProcess
from spindle_trio._worker_protocol._remote_worker import RemoteWorker


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
        (_interfaces.ProcessInterface, SupervisedProcess),
        (_interfaces.ProcessInterface, RemoteProcess),
        (_interfaces.ServingInterface, WorkerScope),
        (_interfaces.WorkerInterface, RemoteWorker),
        (_interfaces.RelayedCalls, ProcessCalls),
        (_interfaces.CallsInterface, RemoteCalls),
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


def test_the_interfaces_promise_something() -> None:
    of_a_worker = set(methods_of(_interfaces.WorkerInterface))
    assert set(methods_of(_interfaces.ServingInterface)) > of_a_worker > {"spawn", "list", "stop"}
    assert set(methods_of(_interfaces.ProcessInterface)) == {
        "send",
        "send_nowait",
        "statistics",
        "stop",
        "wait_ended",
    }
