"""
The pages of docs/, and somebody who follows them: saves the files, runs the code, types the commands.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread

from tests.kit.commands import COMMAND, PATIENCE, Process
from tests.kit.harness import reactor, turns

DOCS = Path(__file__).parents[2] / "docs"

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+\.\w+)\n")


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """What a reader saves it as: the name that its first line has."""
        match = _FILE.match(self.text)
        return match and match[1]


def blocks_of(page: str) -> list[Block]:
    """A page's code blocks, in their order."""
    text = (DOCS / page).read_text()
    return [
        Block(match[1], match[2], text.count("\n", 0, match.start()) + 1)
        for match in _FENCE.finditer(text)
    ]


def pages() -> dict[str, Counter[str]]:
    """All pages that have code blocks, and how many of each language."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        name = path.relative_to(DOCS).as_posix()
        counts = Counter(block.language for block in blocks_of(name))
        if counts and not name.startswith("_build/"):
            found[name] = counts
    return found


class Session(NamedTuple):
    """A command of a console block, and what the page says that it answers."""

    command: str
    answer: str


def sessions(text: str) -> list[Session]:
    """The commands of a console block."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert parts[0] == "", text
    return [Session(*part.split("\n", 1)) for part in parts[1:]]


class Ports(ExitStack):
    """
    Free ports in place of those that pages name. Each is held until the end: bound without listening,
    so that nobody else is given it, while whoever asks for it by its number may listen there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, str] = {}

    def __getitem__(self, named: str) -> str:
        if named not in self.numbers:
            held = self.enter_context(socket.socket())
            # Only then may it be shared: else another process that holds ports could be given the same.
            held.bind(("127.0.0.1", 0))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self.numbers[named] = str(held.getsockname()[1])
        return self.numbers[named]


class Reader:
    """
    Follows a page, in a folder of its own, which is the current one.

    :ivar names: what the page's Python has defined.
    :ivar sites: what is listening.
    """

    def __init__(self, page: str, folder: Path, ports: Ports, **names: Any) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, Any] = names
        self.sites: list[Any] = []
        self._listening: list[Any] = []
        self._ports = ports

    def port(self, named: int) -> int:
        """The port that is used in place of the one that the page names."""
        return int(self._ports[str(named)])

    def lines(self) -> list[str]:
        return (DOCS / self.page).read_text().splitlines()

    def blocks(self, language: str) -> list[Block]:
        return [block for block in blocks_of(self.page) if block.language == language]

    def text_of(self, text: str) -> str:
        """A text with ports that are free."""
        return re.sub(r"\b(?:8\d{3}|2222|5432|5900)\b", lambda match: self._ports[match[0]], text)

    def saves(self, *languages: str) -> None:
        """Save every block that has a file's name."""
        for block in blocks_of(self.page):
            if block.language in languages and block.file is not None:
                self.saved(block.file).write_text(self.text_of(block.text))

    def saved(self, file: str) -> Path:
        return self.folder / Path(file).name

    def runs(self, *which: int) -> None:
        """Run the page's Python in this process, one block after the other; or some of it."""
        blocks = self.blocks("python")
        for number in which or range(len(blocks)):
            self._run(blocks[number])

    def starts(self, service: Any) -> None:
        """Start a service that the page's Python has made."""
        with self._listening_here():
            service.startService()

    def _run(self, block: Block) -> None:
        code = compile(self.text_of(block.text), f"{self.page}:{block.line}", "exec")
        with self._listening_here(), patch.object(reactor, "run"):
            exec(code, self.names)

    @contextmanager
    def _listening_here(self) -> Iterator[None]:
        """What listens is remembered; what is imported may be a file that was saved."""
        listen = reactor.listenTCP

        def listen_tcp(port: int, factory: Any, *args: Any, **kwargs: Any) -> Any:
            self._listening.append(listen(port, factory, *args, **kwargs))
            self.sites.append(factory)
            return self._listening[-1]

        with (
            patch.object(sys, "path", [str(self.folder), *sys.path]),
            patch.object(reactor, "listenTCP", listen_tcp),
        ):
            yield

    async def stops(self) -> None:
        """End everything that listens, and what is left on it."""
        for port in self._listening:
            await maybeDeferred(port.stopListening)
        for site in self.sites:
            # TLS and other layers are factories around it.
            while not hasattr(site, "switched") and hasattr(site, "wrappedFactory"):
                site = site.wrappedFactory
            for connection in getattr(site, "switched", ()):
                connection.abort()
        self._listening.clear()
        self.sites.clear()
        await turns()
        for name in [p.stem for p in self.folder.glob("*.py")]:
            sys.modules.pop(name, None)

    async def types(self, session: Session) -> None:
        """Type a command, and see what the page says that is seen."""
        done = await deferToThread(
            subprocess.run,
            ["bash", "-c", self.text_of(session.command)],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        said = done.stdout.decode().rstrip("\n")
        wanted = self.text_of(session.answer).rstrip("\n")
        assert OutputChecker().check_output(wanted, said, ELLIPSIS) or not wanted, (session, said)
        is_refusal = wanted.startswith("upgrade-switch: ")
        assert (done.returncode == 0) is not is_refusal, (session, said)

    async def talks(self, session: Session) -> None:
        """Type a ``connect``, and ``hello`` where the page has it; see what the page says is seen."""
        before, typed, after = session.answer.partition("hello\n")
        assert typed, session
        arguments = self.text_of(session.command).replace("'", "").split()
        assert arguments[:2] == ["upgrade-switch", "connect"], session

        def talk() -> None:
            with Process(*arguments[1:]) as process:
                assert process.receives(len(before)).decode() == before
                process.sends(b"hello\n")
                assert process.receives(len(after)).decode() == after
                process.terminate()
                process.ends()

        await deferToThread(talk)

    @contextmanager
    def serves(self, session: Session) -> Iterator[Any]:
        """
        Type a ``serve`` or ``forward``; it is ended by SIGTERM.

        :return: the process; afterwards, its ``log`` is what it has said on standard error.
        """
        program, *arguments = shlex.split(self.text_of(session.command))
        assert program == "upgrade-switch", session
        process: Any = Process(*arguments, stdin=None, stdout=None, cwd=self.folder)
        with process:
            said = process.says()
            assert said.startswith("listening on "), said
            yield process
            process.terminate()
            code, _out, process.log = process.ends()
            assert code == 0, process.log
            assert not re.search(rb"Traceback|#(warn|error|critical)", process.log), process.log


@pytest_twisted.async_yield_fixture
async def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``read(page)``: somebody who follows a page. What they listen on is closed after the test."""
    monkeypatch.chdir(tmp_path)
    readers: list[Reader] = []
    with Ports() as ports:

        def follow(page: str, **names: Any) -> Reader:
            readers.append(Reader(page, tmp_path, ports, **names))
            return readers[-1]

        yield follow
        for reader in readers:
            await reader.stops()


def environment() -> dict[str, str]:
    """That of a shell in which the virtual environment is active."""
    folder = str(Path(COMMAND).parent)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def daemon(command: list[str], pid_file: Path) -> Iterator[None]:
    """
    A program that goes into the background as soon as it listens, and writes down its process id; ended
    by SIGTERM.
    """
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done
    pid = int(pid_file.read_text())
    try:
        yield
    finally:
        os.kill(pid, 15)
