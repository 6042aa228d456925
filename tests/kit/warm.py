"""
The command ``upgrade-switch`` as a fork of a process that has imported it already: what takes 0.4 s
with a new Python takes a twentieth of that.

One such process serves all tests of a test process. It has no reactor: each fork makes its own, as a
new Python does. A fork differs from a new process in nothing else that the command could see: it has
the arguments, environment, working directory and streams that it was given, and default signal
handlers.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
from select import poll, select
from typing import Any, NamedTuple

#: How many bytes a request may have: the environment is among them.
_LARGEST_REQUEST = 200_000


class Request(NamedTuple):
    """
    What is to be run. Its streams go beside it: standard input, output and error, and a pipe for how
    it ended.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    new_session: bool = False
    closed: tuple[int, ...] = ()


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

    def fork(self, request: Request, streams: list[int]) -> Fork:
        """Run a command on these streams, which stay the caller's."""
        reading, writing = os.pipe()
        try:
            socket.send_fds(self._control, [pickle.dumps(request)], [*streams, writing])
            pid = int(self._control.recv(100))
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return Fork(pid, reading)


class Fork:
    """One command that runs."""

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
    """Import whatever the command may import, but no reactor."""
    import prometheus_client
    import twisted.internet.epollreactor
    from twisted.internet.interfaces import (
        IStreamClientEndpointStringParserWithReactor,
        IStreamServerEndpointStringParser,
    )
    from twisted.plugin import getPlugins

    import upgrade_switch.command.main
    import upgrade_switch.protocols._h2c
    import upgrade_switch.protocols._websocket

    # An import statement that looks unused is what this function is for.
    del prometheus_client, twisted, upgrade_switch
    for kind in (IStreamServerEndpointStringParser, IStreamClientEndpointStringParserWithReactor):
        list(getPlugins(kind))
    assert "twisted.internet.reactor" not in sys.modules


def _serve(control: socket.socket) -> None:
    """Fork for each request; returns in the forks, which go on as the command."""
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
        data, descriptors, _, _ = socket.recv_fds(control, _LARGEST_REQUEST, 4)
        if not data:
            raise SystemExit
        *streams, status = descriptors
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            control.close()
            for descriptor in (waking, woken, status, *statuses.values()):
                os.close(descriptor)
            _become(pickle.loads(data), streams)
            return
        for descriptor in streams:
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


def _become(request: Request, streams: list[int]) -> None:
    """Be what a new process would be."""
    reset_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if request.new_session:
        os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
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


def main() -> int:
    """Serve until the tests end; in a fork, be the command."""
    with socket.socket(fileno=int(sys.argv[1])) as control:
        _preload()
        gc.collect()
        gc.freeze()
        _serve(control)
    from upgrade_switch.command import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
