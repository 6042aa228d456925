"""
The command ``upgrade-switch``, run as its users run it, and the servers that it meets.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from twisted.internet.threads import deferToThread

from tests.kit.warm import Fork, Parent, Request, reset_signals

COMMAND = str(Path(sys.executable).with_name("upgrade-switch"))

#: How long a command may take before the test fails, in seconds.
PATIENCE = 60

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n"

LOCAL = "tcp:0:interface=127.0.0.1"


def run(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; standard input is empty unless something else is said."""
    given = kwargs.pop("input", None)
    if given is None:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    kwargs.setdefault("stdout", subprocess.PIPE)
    with Process(*arguments, **kwargs) as process:
        writer = threading.Thread(target=process.writes, args=(given or b"",))
        writer.start()
        code, out, error = process.everything()
        writer.join()
    return subprocess.CompletedProcess(process.args, code, out, error)


def fails(code: int, *arguments: str, **kwargs: Any) -> str:
    """
    Run the command, which fails: with this exit code, and with one line on standard error.

    :return: the line, less the command's name.
    """
    done = run(*arguments, **kwargs)
    line = one_line(done.stderr)
    assert not done.stdout, done.stdout
    assert done.returncode == code, (done.returncode, line)
    return line


def one_line(said: bytes) -> str:
    """What the command says on standard error: one line for people, and no Traceback."""
    text = said.decode()
    name, separator, line = text.partition(": ")
    assert (name, separator) == ("upgrade-switch", ": "), text
    assert text.endswith("\n"), text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    assert len(line.strip()) > 10, text
    return line.strip()


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is missing; never in CI, which installs it."""
    missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"there is no {program} here")


async def output_of(*command: str) -> bytes:
    """What a program writes while the reactor serves it; it must not fail."""
    done = await deferToThread(
        subprocess.run, command, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    output: bytes = done.stdout
    return output


# A line of the log of switches and their ends, and of tunnels that lead nowhere.
_SWITCHES = re.compile(
    rb"^\S+ \[upgrade_switch\.(?:observe\.log\.SwitchLog|protocols\._tunnel)#(?:info|warn)\] (.*)\n",
    re.MULTILINE,
)


class Started:
    """A new process: what a :class:`~tests.kit.warm.Fork` is, too."""

    def __init__(self, request: Request, streams: list[int], pass_fds: Sequence[int]) -> None:
        self._process = subprocess.Popen(
            request.argv,
            stdin=streams[0],
            stdout=streams[1],
            stderr=streams[2],
            env=request.env,
            cwd=request.cwd,
            start_new_session=request.new_session,
            pass_fds=pass_fds,
            preexec_fn=reset_signals,
        )
        self.pid = self._process.pid

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        self._process.send_signal(number)


class Program:
    """
    A program while it runs: a new process. It is killed when it keeps somebody waiting for too long.

    :ivar stdin: the other end of its standard input, as :class:`subprocess.Popen` has it; None if
        that is no pipe.
    :ivar stdout: the same for its standard output.
    :ivar stderr: the same for its standard error.
    """

    log: list[str]

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: Any = subprocess.PIPE,
        stdout: Any = subprocess.PIPE,
        stderr: Any = subprocess.PIPE,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        start_new_session: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        All but ``command`` is as for :class:`subprocess.Popen`.
        """
        self.args = list(command)
        request = Request(
            self.args,
            dict(os.environ if env is None else env),
            str(cwd or os.getcwd()),
            start_new_session,
        )
        with ExitStack() as theirs:
            streams: list[int] = []
            ours: list[Any] = []
            for number, stream in enumerate((stdin, stdout, stderr)):
                if number == 2 and stream == subprocess.STDOUT:
                    descriptor, end = streams[1], None
                else:
                    descriptor, end = _stream(number, stream, theirs)
                streams.append(descriptor)
                ours.append(end)
            self.stdin, self.stdout, self.stderr = ours
            self._child = self._start(request, streams, **kwargs)
        self.pid = self._child.pid

    def _start(
        self, request: Request, streams: list[int], pass_fds: Sequence[int] = ()
    ) -> Fork | Started:
        return Started(request, streams, pass_fds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        self.wait()

    @property
    def returncode(self) -> int | None:
        """The exit code, if it has ended."""
        return self.poll()

    def poll(self) -> int | None:
        return self._child.wait(0)

    def wait(self, timeout: float | None = PATIENCE) -> int:
        code = self._child.wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        self._child.send_signal(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    @contextmanager
    def killed_if_late(self) -> Iterator[None]:
        """Wait for the command in here; it is killed when that takes too long."""
        alarm = threading.Timer(PATIENCE, self.kill)
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()
            alarm.join()

    def writes(self, data: bytes) -> None:
        """Give it all of its standard input, as far as it reads it, and the end."""
        if self.stdin is not None:
            with suppress(BrokenPipeError), self.stdin:
                self.stdin.write(data)

    def says(self) -> str:
        """The next line on standard error, less the command's name."""
        assert self.stderr is not None
        with self.killed_if_late():
            line = self.stderr.readline()
        assert line, "it says nothing"
        return one_line(line)

    def sends(self, data: bytes) -> None:
        """Give it something on standard input."""
        assert self.stdin is not None
        self.stdin.write(data)
        self.stdin.flush()

    def receives(self, count: int) -> bytes:
        """So many bytes of its standard output."""
        assert self.stdout is not None
        with self.killed_if_late():
            return self.stdout.read(count)

    def everything(self) -> tuple[int, bytes, bytes]:
        """Exit code, standard output and standard error, as far as they have not been read yet."""
        # Both at the same time: one that nobody reads would stop it.
        error: list[bytes] = []
        reader = threading.Thread(target=lambda: error.append(_rest_of(self.stderr)))
        with self.killed_if_late():
            reader.start()
            out = _rest_of(self.stdout)
            reader.join()
            return self.wait(), out, error[0]

    def ends(self) -> tuple[int, bytes, bytes]:
        """
        Exit code, standard output and standard error, as far as they have not been read yet; what
        standard error tells of switches and tunnels is in ``log``.
        """
        code, out, error = self.everything()
        self.log = [line.decode() for line in _SWITCHES.findall(error)]
        return code, out, _SWITCHES.sub(b"", error)


class Process(Program):
    """
    The command ``upgrade-switch`` while it runs: a fork of a process that has imported it already,
    which saves the time that this takes.
    """

    def __init__(self, *arguments: str, **kwargs: Any) -> None:
        """
        :param arguments: the command's.
        :param kwargs: as for a :class:`Program`; and ``closed``, the numbers of the standard streams
            that are closed.
        """
        super().__init__([COMMAND, *arguments], **kwargs)

    def _start(self, request: Request, streams: list[int], closed: tuple[int, ...] = ()) -> Fork:  # type: ignore[override]  # a fork cannot pass_fds
        return Parent.get().fork(request._replace(closed=closed), streams)


def _stream(number: int, stream: Any, theirs: ExitStack) -> tuple[int, Any]:
    """A descriptor for a child's standard stream, and our end of it where that is a pipe."""
    if stream is None:
        return number, None
    if stream == subprocess.DEVNULL:
        return theirs.enter_context(open(os.devnull, "r+b", buffering=0)).fileno(), None
    if stream != subprocess.PIPE:
        return (stream if isinstance(stream, int) else stream.fileno()), None
    reading, writing = os.pipe()
    near, far = (writing, reading) if number == 0 else (reading, writing)
    theirs.callback(os.close, far)
    return far, open(near, "wb" if number == 0 else "rb")


def _rest_of(stream: Any) -> bytes:
    if stream is None or stream.closed:
        return b""
    rest: bytes = stream.read()
    return rest


@contextmanager
def serving(*arguments: str, listen: tuple[str, ...] = (LOCAL,)) -> Iterator[Any]:
    """
    ``upgrade-switch serve``, listening; ended by SIGTERM.

    :return: the process; its ``addresses`` are what it says it listens on, its ``url`` the first.
    """
    options = [part for endpoint in listen for part in ("--listen", endpoint)]
    with Process("serve", *options, *arguments, stdin=None, stdout=None) as process:
        lines = [process.says() for _ in listen]
        assert all(line.startswith("listening on ") for line in lines), lines
        found: Any = process
        found.addresses = [line.removeprefix("listening on ") for line in lines]
        found.url = found.addresses[0]
        yield process
        process.terminate()
        ended = process.ends()
        assert ended == (0, b"", b""), ended


@contextmanager
def listening(talk: Callable[[socket.socket], object], connections: int = 1) -> Iterator[int]:
    """
    A server that talks to so many clients, one after the other; it has to have done so at the end.

    :return: its port.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        stopped: list[bool] = []

        def serve() -> None:
            for _ in range(connections):
                try:
                    client, _address = server.accept()
                except OSError:
                    if stopped:
                        return
                    raise
                with client:
                    client.settimeout(PATIENCE)
                    # Who is cut off is not what is tested here.
                    with suppress(ConnectionResetError):
                        talk(client)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        except BaseException:
            # Nobody comes any more, and the thread must not trouble the tests that follow.
            stopped.append(True)
            server.shutdown(socket.SHUT_RDWR)
            raise
        thread.join(PATIENCE)
        assert not thread.is_alive()


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Everything up to and with these bytes, and what came with them."""
    data = b""
    while end not in data:
        more = client.recv(65536)
        assert more, data
        data += more
    return data


def read_all(client: socket.socket) -> bytes:
    """Everything until the end of the connection, however it ends."""
    chunks = []
    try:
        while chunk := client.recv(65536):
            chunks.append(chunk)
    except ConnectionResetError:
        pass
    return b"".join(chunks)


def switch(client: socket.socket) -> None:
    """Read a request, and answer it with a 101."""
    read_until(client, b"\r\n\r\n")
    client.sendall(SWITCH)


def reset(client: socket.socket) -> None:
    """End a connection with an RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def echo(client: socket.socket) -> None:
    """Send back what comes, until it ends."""
    while data := client.recv(65536):
        client.sendall(data)
