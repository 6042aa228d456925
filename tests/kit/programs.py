"""
Programs that run while a test talks with them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from tests.kit.warm import Fork, Parent, Request, reset_signals

#: How long a command may take before the test fails, in seconds.
PATIENCE = 60


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


# A line of the log: a switch, its end, or the warning that a tunnel cannot connect.
_SWITCHES = re.compile(
    rb"^\S+ \[upgrade_switch\.(?:observe\.log\.SwitchLog#info|protocols\._tunnel#warn)\] (.*)\n",
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
        it is not a pipe.
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


class Script(Program):
    """
    A script in Python while it runs: a fork of a process that has imported already what it imports,
    which saves the time that this takes.
    """

    def _start(
        self,
        request: Request,
        streams: list[int],
        pass_fds: Sequence[int] = (),
        closed: Sequence[int] = (),
    ) -> Fork | Started:
        """
        :param closed: the numbers of the standard streams that are closed.
        """
        request = request._replace(pass_fds=tuple(pass_fds), closed=tuple(closed))
        return Parent.get().fork(request, streams)


def run_script(command: Sequence[str], **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """
    Run a script in Python to its end; standard input is empty unless something else is said.

    :param kwargs: as for :func:`subprocess.run`.
    """
    given = kwargs.pop("input", None)
    if given is None:
        kwargs.setdefault("stdin", subprocess.DEVNULL)
    with Script(command, **kwargs) as script:
        writer = threading.Thread(target=script.writes, args=(given or b"",))
        writer.start()
        code, out, error = script.everything()
        writer.join()
    return subprocess.CompletedProcess(script.args, code, out, error)


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
