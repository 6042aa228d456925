"""
The chat by lines of the examples, whose users have ``upgrade-switch connect``.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.kit.commands import Process, fails, read_all, read_until
from tests.kit.examples import Example, serving

ASKED = b"What is your name?\n"


@pytest.fixture
def chat() -> Iterator[Example]:
    """The chat, with nobody in it."""
    with serving("line_chat.py") as server:
        yield server


def receives(user: Process, *lines: bytes) -> None:
    """A user gets these lines next."""
    expected = b"".join(line + b"\n" for line in lines)
    assert user.receives(len(expected)) == expected


@contextmanager
def user(chat: Example, name: bytes, *before: Process) -> Iterator[Process]:
    """A user with a name, of whose coming those who are there before get to know."""
    with Process("connect", f"{chat.url}/chat", "chat") as process:
        receives(process, ASKED[:-1])
        process.sends(name + b"\n")
        here = b""
        while not here.endswith(b"\n"):
            byte = process.receives(1)
            assert byte, here
            here += byte
        assert here.startswith(b"Here are: ")
        assert here.endswith(name + b"\n")
        for other in before:
            receives(other, name + b" is here")
        yield process


def leaves(process: Process) -> tuple[int, bytes, bytes]:
    """The end of a user's input, and of the command."""
    assert process.stdin is not None
    process.stdin.close()
    return process.ends()


def test_three(chat: Example) -> None:
    """What one says, the two others get; who leaves has left well, and they are told."""
    with user(chat, b"ann") as ann, user(chat, b"bob", ann) as bob, user(chat, b"eve", ann, bob) as eve:
        ann.sends(b"hello\nhow are you?\n")
        for other in (bob, eve):
            receives(other, b"ann: hello", b"ann: how are you?")
        eve.sends("schön\r\n".encode())
        for other in (ann, bob):
            receives(other, "eve: schön".encode())
        assert leaves(bob) == (0, b"", b"")
        for other in (ann, eve):
            receives(other, b"bob has left")
        # The place is free again, and nobody has got what he said himself.
        with user(chat, b"bob", ann, eve) as bob:
            assert leaves(bob) == (0, b"", b"")
        receives(ann, b"bob has left")
        assert leaves(ann) == (0, b"", b"")


def test_names(chat: Example) -> None:
    """A name that somebody has is no name, nor is an empty one; another will do."""
    with user(chat, b"ann") as ann, Process("connect", f"{chat.url}/chat", "chat") as bob:
        bob.sends(b"ann\n\nbob\n")
        taken = b"That is taken. What is your name?"
        receives(bob, ASKED[:-1], taken, taken, b"Here are: ann, bob")
        receives(ann, b"bob is here")


def test_control_characters(chat: Example) -> None:
    """What would move another's cursor, or worse, is left out."""
    with user(chat, b"ann") as ann, user(chat, b"bob", ann) as bob:
        bob.sends(b"\x1b[2Jhi\x07 \xc2\x9b1m \xff\n")
        receives(ann, "bob: [2Jhi 1m \N{REPLACEMENT CHARACTER}".encode())


def test_line_too_long(chat: Example) -> None:
    """Who sends a line that is too long is told so, and out."""
    with user(chat, b"ann") as ann, user(chat, b"bob", ann) as bob:
        bob.sends(b"x" * 2000)
        code, said, error = bob.ends()
        assert (code, said, error) == (0, b"Too long.\n", b"")
        receives(ann, b"bob has left")


def test_server_ends(chat: Example) -> None:
    """On SIGTERM the chat says goodbye, and everybody's command ends well."""
    with user(chat, b"ann") as ann, user(chat, b"bob", ann) as bob:
        assert chat.finishes() == (0, "")
        for process in (ann, bob):
            code, said, error = process.ends()
            assert (code, error) == (0, b"")
            assert said.endswith(b"The chat is over.\n")


def test_refused(chat: Example) -> None:
    """Another token is refused, and says which one there is."""
    assert "426" in fails(3, "connect", f"{chat.url}/chat", "echo")


def joined(chat: Example, name: bytes, buffer: int) -> socket.socket:
    """Another who is in the chat, with a small buffer for what he does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(60)
    client.connect(("127.0.0.1", chat.port))
    client.sendall(
        b"GET /chat HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n" + name
    )
    client.sendall(b"\n")
    read_until(client, b"Here are: ")
    return client


def test_who_does_not_read(chat: Example) -> None:
    """Who does not read misses what is said; the others go on, and when he reads he is back."""
    line = b"x" * 999 + b"\n"
    with joined(chat, b"slow", 10_000) as slow, joined(chat, b"fast", 100_000) as fast:
        for _ in range(200):
            fast.sendall(line * 100)
        fast.shutdown(socket.SHUT_WR)
        # The chat has heard it all, and closes.
        read_all(fast)
        with joined(chat, b"late", 100_000) as late:
            slow.sendall(b"here I am\n")
            slow.shutdown(socket.SHUT_WR)
            missed = 20_000 * len(b"fast: " + line) - len(read_all(slow))
            read_until(late, b"slow: here I am\nslow has left\n")
    assert missed > 10_000_000
