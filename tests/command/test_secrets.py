"""
Secrets of ``connect`` and ``forward`` that do not stand on the command line: ``--user-file``,
``--user-fd``, ``UPGRADE_SWITCH_USER`` and ``--header @FILE``.
"""

from __future__ import annotations

import os
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import COMMAND, LOCAL, PATIENCE, Process, fails, listening, read_until
from tests.kit.forwarding import connected, logged
from tests.kit.harness import field
from tests.kit.programs import one_line

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"

WITHOUT = {name: value for name, value in os.environ.items() if name != "UPGRADE_SWITCH_USER"}


def asked(*options: str, lines: int = 1, **kwargs: Any) -> bytes:
    """What ``connect`` asks a server with these options; it says so many lines at the end."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n").removesuffix(b"\r\n\r\n"))
        client.sendall(REFUSAL)

    with listening(talk) as port:
        url = f"http://127.0.0.1:{port}/"
        with Process("connect", *options, url, "echo", stdin=None, **kwargs) as process:
            code, _, said = process.everything()
    assert (code, said.count(b"\n")) == (3, lines), said
    return heads[0]


def authorization(user: bytes) -> bytes:
    return b"Basic " + b64encode(user)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    return path


@pytest.mark.parametrize("content", [b"a:b:c", b"a:b:c\n", b"a:b:c\r\n", b"\xef\xbb\xbfa:b:c\n"])
def test_user_file(file: Path, content: bytes) -> None:
    """One line with a name and a password, as editors of all kinds write it."""
    file.write_bytes(content)
    assert field(asked("--user-file", str(file)), b"authorization") == authorization(b"a:b:c")


def test_not_utf_8(file: Path) -> None:
    """A password is bytes, and white space belongs to it."""
    file.write_bytes(b"a: b\xff \n")
    assert field(asked("--user-file", str(file)), b"authorization") == authorization(b"a: b\xff ")


@pytest.mark.parametrize("option", ["--user-file", "--header"])
def test_everybody_can_read_it(file: Path, option: str) -> None:
    """A file that all users can read is used, and one line says that they can."""
    file.write_text("Authorization: x:y\n")
    file.chmod(0o644)
    value = str(file) if option == "--user-file" else f"@{file}"
    with Process("connect", option, value, "http://127.0.0.1:1/", "t", stdin=None) as process:
        line = process.says()
        assert line == (
            f"warning: {option} {value}: all users of this machine can read this file (chmod o-r)"
        )
        process.everything()


def test_environment(file: Path) -> None:
    """The environment says it, if no option does, and no field."""
    env = {**WITHOUT, "UPGRADE_SWITCH_USER": "e:f"}
    assert field(asked(env=env), b"authorization") == authorization(b"e:f")
    assert field(asked("--user", "a:b", env=env), b"authorization") == authorization(b"a:b")
    assert field(asked("--header", "authorization: x", env=env), b"authorization") == b"x"
    file.write_text("a:b")
    assert field(asked("--user-file", str(file), env=env), b"authorization") == authorization(b"a:b")
    env["UPGRADE_SWITCH_USER"] = ""
    assert field(asked(env=env), b"authorization") is None


def test_fields(file: Path) -> None:
    """A file has a field in each line, and may be given beside others."""
    file.write_bytes(
        b"\xef\xbb\xbfX-One: 1\r\n\r\n  \nAuthorization: Bearer s\xc3\xa4cret\nHost: example.com\n"
    )
    head = asked("--header", f"@{file}", "--header", "X-One: 2")
    assert field(head, b"x-one") == b"1, 2"
    assert field(head, b"authorization") == "Bearer säcret".encode()
    assert field(head, b"host") == b"example.com"


@pytest.fixture
def descriptor() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe: what to read, and what to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def start(*arguments: str, descriptor: int, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, which gets a descriptor; forks cannot."""
    return subprocess.run(
        [COMMAND, *arguments],
        pass_fds=[descriptor],
        capture_output=True,
        timeout=PATIENCE,
        env=WITHOUT,
        check=False,
        stdin=subprocess.DEVNULL,
        **kwargs,
    )


def test_user_fd(descriptor: tuple[int, int]) -> None:
    """One line is read, although whoever writes has not closed the descriptor."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        client.sendall(REFUSAL)

    ours, theirs = descriptor
    os.write(theirs, b"a:b\n")
    with listening(talk) as port:
        url = f"http://127.0.0.1:{port}/"
        start("connect", url, "t", "--user-fd", str(ours), descriptor=ours)
    assert field(heads[0].removesuffix(b"\r\n\r\n"), b"authorization") == authorization(b"a:b")


def test_user_fd_of_forward(tmp_path: Path) -> None:
    """``forward`` takes standard input, too, and reads it once for all tables of a file."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n").removesuffix(b"\r\n\r\n"))
        client.sendall(REFUSAL)

    config = tmp_path / "forwards.toml"
    with listening(talk, connections=2) as port:
        table = f'[[forward]]\nlisten = 0\nurl = "http://127.0.0.1:{port}/"\ntoken = "t"\n'
        config.write_text(table * 2)
        words = ["--config", str(config), "--user-fd", "0"]
        with Process("forward", *words, stdout=None) as process:
            process.sends(b"a:b\n")
            lines = [process.says() for _ in range(2)]
            found: Any = process
            for line in lines:
                found.address = ("127.0.0.1", int(line.rpartition(":")[2]))
                with connected(found):
                    assert b"403 Forbidden" in logged(found)
            process.terminate()
            process.ends()
    assert [field(head, b"authorization") for head in heads] == [authorization(b"a:b")] * 2


def test_wrong_descriptor(descriptor: tuple[int, int]) -> None:
    """A descriptor that gives no password, or cannot be read: exit code 2, and one line."""
    ours, theirs = descriptor
    os.write(theirs, b"secret\n")
    done = start("connect", "--user-fd", str(ours), "http://h/", "t", descriptor=ours)
    assert one_line(done.stderr) == (f"connect: --user-fd {ours}: it needs one line NAME:PASSWORD")
    done = start("connect", "--user-fd", str(theirs), "http://h/", "t", descriptor=theirs)
    assert done.returncode == 2
    assert f"--user-fd {theirs}: " in one_line(done.stderr)


USER, FIELDS = "--user-file ", "--header @"

CONTENTS = {
    "no password": (USER, b"secret", ": it needs one line NAME:PASSWORD"),
    "nothing": (USER, b"\n", ": it needs one line NAME:PASSWORD"),
    "two lines": (USER, b"secret:a\nb:c\n", ": it has more than one line"),
    "control": (USER, b"secret:a\tb\n", ": control characters are not allowed"),
    "NUL": (USER, b"secret:a\0\n", ": control characters are not allowed"),
    "long": (USER, b"secret:" + b"x" * 70_000, ": it is longer than 65536 bytes"),
    "no field": (FIELDS, b"\n \n", ": it has no field"),
    "no colon": (FIELDS, b"X-A: 1\nsecret\n", ", line 2 needs 'Name: value'"),
    "folded": (FIELDS, b"X-A: 1\n  secret: b\n", ", line 2 needs 'Name: value'"),
    "CR": (FIELDS, b"X-A: secret\rX-B: 2\n", ", line 1: X-A: control characters are not allowed"),
    "CR CR LF": (FIELDS, b"X-A: secret\r\r\n", ", line 1: X-A: control characters are not allowed"),
    "NUL in a field": (FIELDS, b"X-A: secret\0\n", ", line 1: X-A: control characters are not allowed"),
    "reserved": (FIELDS, b"Upgrade: secret\n", ", line 1: Upgrade: this field cannot be set"),
    "UTF-16": (FIELDS, "X-A: secret\n".encode("utf-16"), ", line 1 needs 'Name: value'"),
}


@pytest.mark.parametrize(("option", "content", "named"), CONTENTS.values(), ids=CONTENTS)
def test_wrong_file(file: Path, option: str, content: bytes, named: str) -> None:
    """A file with a wrong line is a usage error: one line, which does not show it."""
    file.write_bytes(content)
    given = f"{option}{file}"
    assert fails(2, "connect", *given.split(), "http://h/", "t") == f"connect: {given}{named}"


OPTIONS: dict[str, tuple[list[str], str]] = {
    "user file gone": (["--user-file", "/nowhere"], "--user-file /nowhere: No such file"),
    "user directory": (["--user-file", "/"], "--user-file /: Is a directory"),
    "user, no name": (["--user-file", ""], "--user-file : No such file"),
    "fields gone": (["--header", "@/nowhere"], "--header @/nowhere: No such file"),
    "fields, no name": (["--header", "@"], "--header @: No such file"),
    "standard input": (["--header", "@-"], "standard input belongs to the connection"),
    "input": (["--user-fd", "0"], "standard input belongs to the connection"),
    "output": (["--user-fd", "1"], "that is an output"),
    "closed": (["--user-fd", "987"], "--user-fd 987: Bad file descriptor"),
    "no number": (["--user-fd", "secret"], "--user-fd needs the number"),
    "negative": (["--user-fd", "-1"], "--user-fd needs the number"),
    "huge": (["--user-fd", "9" * 30], "--user-fd needs the number"),
    "two": (["--user", "a:b", "--user-file", "/x"], "--user and --user-file cannot be combined"),
    "two more": (["--user-file", "/x", "--user-fd", "9"], "--user-file and --user-fd cannot"),
    "field": (["--user-fd", "9", "--header", "Authorization: x"], "--user-fd and --header Auth"),
}


@pytest.mark.parametrize(("options", "named"), OPTIONS.values(), ids=OPTIONS)
def test_misuse(options: list[str], named: str) -> None:
    """What cannot be meant is a usage error: exit code 2, and one line."""
    assert named in fails(2, "connect", *options, "http://h/", "t")


@pytest.mark.parametrize("command", [["connect"], ["forward", LOCAL]])
def test_no_terminal(command: list[str]) -> None:
    """A service without a terminal is told at once what to do, and is not asked."""
    line = fails(2, *command, "http://h/", "t", "--user", "name", start_new_session=True)
    assert "--user name: no terminal to ask for the password on" in line
    assert "--user-file, --user-fd or UPGRADE_SWITCH_USER=NAME:PASSWORD" in line
    env = {**WITHOUT, "UPGRADE_SWITCH_USER": "name"}
    line = fails(2, *command, "http://h/", "t", env=env, start_new_session=True)
    assert "UPGRADE_SWITCH_USER name: no terminal" in line
