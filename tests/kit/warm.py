"""
Scripts in Python (``upgrade-switch``, ``twist``, the examples) as forks of a process that has imported
already what they import: what takes 0.4 s with a new Python takes a twentieth of that.

One such process serves all tests of a test process. It has no reactor: each fork makes its own, as a
new Python does. A fork differs from a new process in nothing else that the script could see: it has
the arguments, environment, working directory, streams and other descriptors that it was given, and
default signal handlers.
"""

from __future__ import annotations

import atexit
import gc
import io
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from fcntl import F_DUPFD_CLOEXEC, fcntl
from select import poll, select
from typing import Any, NamedTuple

#: How many bytes a request may have: the environment is among them.
_LARGEST_REQUEST = 200_000

#: How many descriptors may come with it.
_MOST_DESCRIPTORS = 20

# Whether forks are to use asyncio's reactor (on_asyncio.py); those that ask for another one get that.
_IS_ON_ASYNCIO = "TESTS_ON_ASYNCIO" in os.environ

#: Above all numbers that a request gives to a descriptor.
_OUT_OF_THE_WAY = 500


class Request(NamedTuple):
    """
    What is to be run: a script and its arguments. Its streams go beside it: standard input, output and
    error, what else it is to have under the same number, and a pipe for how it ended.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    new_session: bool = False
    closed: tuple[int, ...] = ()
    pass_fds: tuple[int, ...] = ()


class Parent:
    """The warm process, as tests see it."""

    _running: Parent | None = None

    @classmethod
    def get(cls) -> Parent:
        """The one of this test process, which is started with the first call."""
        if cls._running is None or cls._running._pid != os.getpid():
            cls._running = cls()
        return cls._running

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # It ends when the other end of its socket is closed.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=os.path.abspath(os.path.join(os.path.dirname(__file__), "../..")),
            )

    def fork(self, request: Request, streams: Sequence[int]) -> Fork:
        """Run a script on these streams, which stay the caller's."""
        reading, writing = os.pipe()
        descriptors = [*streams, *request.pass_fds, writing]
        try:
            socket.send_fds(self._control, [pickle.dumps(request)], descriptors)
            pid = int(self._control.recv(100))
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return Fork(pid, reading)


class Fork:
    """One script that runs."""

    def __init__(self, pid: int, status: int) -> None:
        """
        :param status: the pipe that tells how it ended.
        """
        self.pid = pid
        self._status: int | None = status
        self._returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        """
        Wait for its end.

        :return: its exit code, as ``subprocess`` has it; None if it still runs.
        """
        if self._status is not None:
            waiting = poll()
            waiting.register(self._status)
            if not waiting.poll(None if timeout is None else timeout * 1000):
                return None
            self._returncode = int(os.read(self._status, 100))
            os.close(self._status)
            self._status = None
        return self._returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.wait(0) is None:
            os.kill(self.pid, number)


def _preload() -> None:
    """
    Import what the scripts import, but no reactor, and nothing that takes hold of standard streams for
    itself, as modules of twist do.
    """
    import encodings.idna

    import autobahn.twisted.websocket
    import prometheus_client
    import treq
    import twisted.application.reactors
    import twisted.application.service
    import twisted.internet.epollreactor
    import twisted.protocols.amp
    import twisted.scripts.twistd
    from twisted.internet.interfaces import (
        IStreamClientEndpointStringParserWithReactor,
        IStreamServerEndpointStringParser,
    )
    from twisted.plugin import getPlugins

    import upgrade_switch.command.client.connect
    import upgrade_switch.command.client.forward
    import upgrade_switch.command.probe.probing
    import upgrade_switch.command.server.proxy
    import upgrade_switch.command.server.service
    import upgrade_switch.command.subcommands
    import upgrade_switch.observe.metrics
    import upgrade_switch.protocols._h2c
    import upgrade_switch.protocols._websocket
    import upgrade_switch.proxy.resource

    # An import statement that looks unused is what this function is for.
    del autobahn, encodings, prometheus_client, treq, twisted, upgrade_switch
    for kind in (IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor):
        list(getPlugins(kind))
    assert "twisted.internet.reactor" not in sys.modules


def _serve(control: socket.socket) -> None:
    """Fork for each request; returns in the forks, which go on as the script."""
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # An interrupt at the terminal is everybody's; this process has nothing to say about it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    statuses: dict[int, int] = {}
    while True:
        readable, _, _ = select([control, waking], [], [])
        if waking in readable:
            os.read(waking, 1000)
            _reap(statuses)
        if control not in readable:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, _LARGEST_REQUEST, _MOST_DESCRIPTORS)
        if not data:
            raise SystemExit
        *given, status = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            control.close()
            for descriptor in (waking, woken, status, *statuses.values()):
                os.close(descriptor)
            _become(pickle.loads(data), given)
            return
        for descriptor in given:
            os.close(descriptor)
        statuses[pid] = status
        control.send(b"%d" % pid)


def _reap(statuses: dict[int, int]) -> None:
    """Tell how those ended that have."""
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = statuses.pop(pid)
        try:
            os.write(pipe, b"%d" % os.waitstatus_to_exitcode(status))
        except BrokenPipeError:
            # Nobody wants to know.
            pass
        finally:
            os.close(pipe)


def _become(request: Request, given: list[int]) -> None:
    """Be what a new process would be."""
    reset_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request.new_session:
        os.setsid()
    _renumber(given, (0, 1, 2, *request.pass_fds))
    for number in request.closed:
        os.close(number)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.env)
    sys.argv = list(request.argv)
    # As Python does with a script: its folder in front, then PYTHONPATH.
    path = request.env.get("PYTHONPATH", "")
    sys.path[0:1] = [os.path.dirname(request.argv[0]), *(path.split(os.pathsep) if path else ())]
    sys.stdin = sys.__stdin__ = _stream(0, "r")  # type: ignore[misc]  # only a hint: it may be None
    sys.stdout = sys.__stdout__ = _stream(1, "w")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w")  # type: ignore[misc]


def _renumber(descriptors: list[int], numbers: tuple[int, ...]) -> None:
    """Have the descriptors these numbers, some of which others of them may have now."""
    moved = []
    for descriptor in descriptors:
        moved.append(fcntl(descriptor, F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY))
        os.close(descriptor)
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def _stream(number: int, mode: str) -> Any:
    """A standard stream as Python makes it at its start; None where it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    raw = open(number, f"{mode}b", buffering=-1, closefd=False)  # noqa: SIM115 - lives with the process
    errors = "backslashreplace" if number == 2 else "strict"
    is_live = number == 2 or os.isatty(number)
    return io.TextIOWrapper(raw, "utf-8", errors, line_buffering=is_live)


def reset_signals() -> None:
    """
    Have a child process begin with default signal handlers: what its parent ignores (``make test &``
    ignores SIGINT), it would ignore, too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main() -> None:
    """Serve until the tests end; in a fork, be the script."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _preload()
        gc.collect()
        gc.freeze()
        _serve(control)
    if _IS_ON_ASYNCIO and not any(word.startswith("--reactor") for word in sys.argv):
        # In the fork: the loop's descriptors would be shared.
        from twisted.internet import asyncioreactor

        asyncioreactor.install()
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _end(end.code or 0)
        raise
    _end(0)


def _end(code: int) -> None:
    """
    End as Python does, but for taking apart all that has been imported, which takes four times as long
    as the rest of a fork. Returns where there is more to do or to say about it: that is Python's.
    """
    if threading.active_count() > 1 or not 0 <= code <= 255:
        return
    atexit._run_exitfuncs()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                return
    os._exit(code)


if __name__ == "__main__":
    main()
