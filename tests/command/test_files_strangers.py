"""
``upgrade-switch serve --files``: what is not for strangers, and what they may ask for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.kit.commands import LOCAL, fails, serving
from tests.kit.harness import field
from tests.kit.operating import body_of, get
from upgrade_switch.command.server.files import Files

TEXT = b"0123456789"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all kinds of entries."""
    folder = tmp_path_factory.mktemp("f")
    for name in (".git", ".well-known", "sub", "linked"):
        (folder / name).mkdir()
        (folder / name / "file.txt").write_bytes(TEXT)
    (folder / ".env").write_bytes(TEXT)
    (folder / "link").symlink_to("linked")
    (folder / "nowhere").symlink_to("is not there")
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket"))
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(TEXT)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A server of these files. (That its log is empty is seen at its end.)"""
    with serving("--files", f"/ {folder}", "--tunnel", "/.git/db db tcp:127.0.0.1:1") as server:
        yield server.url


@pytest.mark.parametrize(
    "target",
    ["/.env", "/%2Eenv", "/.git/", "/.git/file.txt", "/.git", "/./sub/file.txt", "/sub/..%2F.env"],
)
def test_hidden(url: str, target: str) -> None:
    """What begins with a dot is not there, below a tunnel's path neither."""
    assert get(url, target)[0] == 404


def test_not_hidden(url: str) -> None:
    """There are ``.well-known`` (RFC 8615), what symbolic links lead to, and tunnels anywhere."""
    for target in ("/.well-known/file.txt", "/link/file.txt"):
        code, got = get(url, target)
        assert (code, body_of(got)) == (200, TEXT)
    code, got = get(url, "/.git/db")
    assert (code, field(got, b"upgrade")) == (426, b"db")


def test_listing(url: str) -> None:
    """A directory's page lists what can be fetched by its name."""
    code, got = get(url)
    assert code == 200
    for name in (b".well-known/", b"sub/", b"link/"):
        assert b'href="%s"' % name in got
    for name in (b".git", b".env", b"nowhere", b"%FF"):
        assert name not in got


def test_listing_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a directory that may not be read is a 403."""

    def refuse(path: object) -> None:
        raise PermissionError

    files = Files(str(tmp_path))
    monkeypatch.setattr(Files, "listdir", refuse)
    assert cast(Any, files.getChild(b"", SimpleNamespace(uri=b"/"))) is Files.forbidden


@pytest.mark.parametrize(
    "target", ["/pipe", "/socket", "/nowhere", "/sub?\xa3", "/?\xa3", "/sub/file.txt?\xa3", "\xa3"]
)
def test_no_file(url: str, target: str) -> None:
    """What is neither file nor directory is not there, and not waited for; nor is what is no URL."""
    assert get(url, target)[0] == 404


@pytest.mark.parametrize(
    "fields",
    [
        b"If-Modified-Since:;",
        b"If-Modified-Since: \xff",
        b"If-Modified-Since: Sun",
        b"Range: \xff",
        b"Range: bytes=\xff-",
        b"Range: bytes=" + b"9" * 5000 + b"-",
        b"Range: bytes=-11",
        b"Range: bytes=-11,0-1",
        b"Range: bytes=5-1",
        b"Range: bytes=" + b",".join([b"0-"] * 3000),
        b'If-Range: "another"\r\nRange: bytes=1-2',
    ],
    ids=lambda fields: ascii(fields[:35]),
)
def test_ignored(url: str, fields: bytes) -> None:
    """A condition or a range that makes no sense, or too much work, is ignored: all comes, once."""
    code, got = get(url, "/sub/file.txt", fields + b"\r\n")
    assert (code, body_of(got)) == (200, TEXT)


@pytest.mark.parametrize(
    ("value", "body"),
    [(b"2-4", b"234"), (b"7-", b"789"), (b"-3", b"789"), (b"-10", TEXT), (b"9-99", b"9")],
)
def test_range(url: str, value: bytes, body: bytes) -> None:
    """A part of a file (RFC 9110 §14.1.2)."""
    code, got = get(url, "/sub/file.txt", b"Range: bytes=" + value + b"\r\n")
    assert (code, body_of(got)) == (206, body)


def test_not_modified(url: str) -> None:
    """Who has the file already is told so."""
    changed = field(get(url, "/sub/file.txt")[1].partition(b"\r\n\r\n")[0], b"last-modified")
    assert get(url, "/sub/file.txt", b"If-Modified-Since: " + changed + b"\r\n")[0] == 304


@pytest.mark.parametrize("name", ["passwords", "sub/passwords"])
def test_passwords_are_not_served(name: str, tmp_path: Path) -> None:
    """A file with passwords below a directory that is served: exit code 2, and one line."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / name).write_text("ops:secret\n")
    options = ["--files", f"/f {tmp_path}/link", "--auth", f"/x file:{tmp_path / name}"]
    line = fails(2, "serve", "--listen", LOCAL, *options)
    assert f"--files /f: {tmp_path / name}" in line


def test_hidden_passwords(tmp_path: Path) -> None:
    """What begins with a dot is not served, and may be there."""
    (tmp_path / ".passwords").write_text("ops:secret\n")
    with serving("--files", f"/ {tmp_path}", "--auth", f"/x file:{tmp_path}/.passwords") as server:
        assert get(server.url, "/.passwords")[0] == 404
