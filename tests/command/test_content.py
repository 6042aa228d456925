"""
``--method`` and ``--data`` of ``connect`` and ``forward``: what they ask with.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kit.commands import (
    LOCAL,
    SWITCH,
    fails,
    listening,
    read_all,
    read_until,
    run,
)
from tests.kit.forwarding import connected, forwarding
from tests.kit.harness import field

FORM = b"application/x-www-form-urlencoded"


def asking(heads: list[bytes], contents: list[bytes]) -> Callable[[socket.socket], None]:
    """What a server does that notes the requests, switches, and echoes."""

    def talk(client: socket.socket) -> None:
        head, _, content = read_until(client, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(field(head, b"content-length") or 0)
        while len(content) < length:
            content += client.recv(65536)
        heads.append(head)
        contents.append(content)
        client.sendall(SWITCH)
        client.sendall(read_all(client))

    return talk


def asked(*options: str) -> tuple[bytes, bytes]:
    """The request's head and content with these options; the input comes behind it, and back."""
    heads: list[bytes] = []
    contents: list[bytes] = []
    with listening(asking(heads, contents)) as port:
        done = run("connect", *options, f"http://127.0.0.1:{port}/x?y", "echo", input=b"behind")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"behind", b"")
    return heads[0], contents[0]


@pytest.mark.parametrize(
    ("options", "line", "kind", "content"),
    [
        ([], b"GET", None, b""),
        (["--method", "POST"], b"POST", None, b""),
        (["--data", '{"Tty": "ä"}'], b"POST", FORM, '{"Tty": "ä"}'.encode()),
        (["--data", ""], b"POST", FORM, b""),
        (["--method", "PUT", "--data=a\r\nb"], b"PUT", FORM, b"a\r\nb"),
        (["--method=GET", "--data", "x"], b"GET", FORM, b"x"),
        (["--header", "content-type: a/b", "--data", "x"], b"POST", b"a/b", b"x"),
        (["--data", "x", "--header", "Content-Type: a/b"], b"POST", b"a/b", b"x"),
        (["--data", b"\xff".decode("utf-8", "surrogateescape")], b"POST", FORM, b"\xff"),
    ],
)
def test_request(options: list[str], line: bytes, kind: bytes | None, content: bytes) -> None:
    """The content comes with its length and kind, which are curl's; with it the method is POST."""
    head, sent = asked(*options)
    assert head.startswith(line + b" /x?y HTTP/1.1\r\n")
    assert (field(head, b"content-type"), sent) == (kind, content)
    length = None if line == b"GET" and not content else b"%d" % len(content)
    assert field(head, b"content-length") == length
    assert (field(head, b"upgrade"), field(head, b"connection")) == (b"echo", b"Upgrade")


def test_file(tmp_path: Path) -> None:
    """What a file has is sent as it is, line ends and all."""
    (tmp_path / "@data").write_bytes(bytes(range(256)) * 1000)
    _, content = asked("--data", f"@{tmp_path}/@data")
    assert content == bytes(range(256)) * 1000


def test_forward() -> None:
    """``forward`` sends it with each of its connections."""
    heads: list[bytes] = []
    contents: list[bytes] = []
    with (
        listening(asking(heads, contents), connections=2) as port,
        forwarding("--data", "{}", LOCAL, f"http://127.0.0.1:{port}/", "echo") as process,
    ):
        for _ in range(2):
            with connected(process) as client:
                client.sendall(b"behind")
                client.shutdown(socket.SHUT_WR)
                assert read_all(client) == b"behind"
    assert [head.partition(b" ")[0] for head in heads] == [b"POST"] * 2
    assert contents == [b"{}"] * 2


BAD = {
    "no method": (["--method", ""], "--method needs a method"),
    "two words": (["--method", "A B"], "--method needs a method"),
    "line break": (["--method", "GET\r\nX: y"], "--method needs a method"),
    "not ASCII": (["--method", "ä"], "--method needs a method"),
    "CONNECT": (["--method", "CONNECT"], "--method needs a method"),
    "twice": (["--data", "a", "--data", "b"], "--data is given twice"),
    "standard input": (["--data", "@-"], "--data @-: standard input"),
    "no file": (["--data", "@/nowhere/data"], "--data @/nowhere/data: No such file"),
    "directory": (["--data", "@/"], "--data @/: "),
    "no name": (["--data", "@"], "--data @: "),
    "length": (["--data", "x", "--header", "Content-Length: 7"], "--header Content-Length"),
}


@pytest.mark.parametrize(("options", "named"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", [("connect",), ("forward", LOCAL)])
def test_wrong_options(command: tuple[str], options: list[str], named: str) -> None:
    """Wrong options are a usage error: exit code 2, and one line that names them."""
    name, *arguments = command
    assert named in fails(2, name, *options, *arguments, "http://127.0.0.1/", "echo")


@pytest.mark.parametrize("options", [["--method", "POST"], ["--data", "x"], ["--data", ""]])
def test_websocket(options: list[str]) -> None:
    """A WebSocket's request is a GET without a content."""
    assert f"{options[0]} does not work with WebSockets" in fails(2, "connect", *options, "ws://h/")
