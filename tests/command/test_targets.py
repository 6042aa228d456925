"""
``serve --targets 'PATH TOKEN FILE'``: where names lead, as a file says, which may change.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.usage import UsageError

from tests.kit.commands import Process, fails, run, serving
from tests.kit.forwarding import Answering, logged
from upgrade_switch.command.server import targets as module
from upgrade_switch.command.server.targets import TargetsFile


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What is logged."""
    found: list[str] = []

    def observe(event: Any) -> None:
        if event["log_namespace"] == module.__name__:
            found.append(f"{event['log_level'].name} {formatEvent(event)}")

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "targets"


def endpoint_of(text: str) -> Any:
    """What stands for an endpoint: its string."""
    if text.startswith("tcp:nowhere"):
        raise UsageError("not an endpoint")
    return [text]


def read(file: Path, make: Callable[[str], Any] = endpoint_of) -> Callable[[str], Any]:
    return TargetsFile(str(file), make).lookup


CONTENT = b"""\xef\xbb\xbfone: tcp:127.0.0.1:1
# a comment: tcp:127.0.0.1:9

  two:\ttcp:127.0.0.1:2  \r
 #three: tcp:127.0.0.1:3
a:b c: unix:/run/a b
../x: 127.0.0.1:80
n\xc3\xa4me: [::1]:81
web: example.com:82
unix: unix:83
"""


def test_lines(file: Path, said: list[str]) -> None:
    """Endpoint strings, and hosts with ports as websockify has them; comments and empty lines."""
    file.write_bytes(CONTENT)
    lookup = read(file)
    assert lookup("one") == ["tcp:127.0.0.1:1"]
    assert lookup("two") == ["tcp:127.0.0.1:2"]
    assert lookup("a:b c") == ["unix:/run/a b"]
    assert lookup("../x") == ["tcp:127.0.0.1:80"]
    assert lookup("näme") == ["tcp:\\:\\:1:81"]
    assert lookup("web") == ["tcp:example.com:82"]
    assert lookup("unix") == ["unix:83"]
    for name in ("", "#three", "three", "# a comment", "one:", "one ", "\ufeffone", "x" * 100_000):
        assert lookup(name) is None
    assert said == []


def test_broken_lines(file: Path, said: list[str]) -> None:
    """A broken line is logged with its number, without what it says; the others hold."""
    lines = ["good: tcp:127.0.0.1:1", "secret", "secret:tcp:a:1", ": tcp:a:1", "secret:", "p: a:65536"]
    lines += ["q: a:0", "r: tcp:nowhere", "good: tcp:127.0.0.1:2", "last: tcp:127.0.0.1:3"]
    file.write_bytes("\n".join(lines).encode() + b"\nb\xffd: tcp:a:1")
    lookup = read(file)
    assert (lookup("good"), lookup("last")) == (["tcp:127.0.0.1:1"], ["tcp:127.0.0.1:3"])
    not_one = "it is not 'name: ENDPOINT'"
    whys = {2: not_one, 3: not_one, 4: not_one, 5: not_one, 6: "no port has the number 65536"}
    whys |= {7: "no port has the number 0", 8: "not an endpoint", 9: "an earlier line has that name"}
    whys |= {11: "it is not UTF-8"}
    assert said == [f"warn {file}, line {number}: {why}" for number, why in whys.items()]


def test_many_broken_lines(file: Path, said: list[str]) -> None:
    """A file of something else does not fill the log."""
    file.write_text("nothing\n" * 10_000 + "a: b:1")
    assert read(file)("a") == ["tcp:b:1"]
    assert len(said) == 11
    assert said[-1].endswith(": 9990 more lines are broken")


def test_ten_thousand(file: Path) -> None:
    """A file of 10,000 lines; when one changes, only that one's endpoint is made anew."""
    made = []

    def make(text: str) -> Any:
        made.append(text)
        return [text]

    lines = [f"name{number}: 127.0.0.1:{number}" for number in range(1, 10_001)]
    file.write_text("\n".join(lines))
    lookup = read(file, make)
    assert lookup("name10000") == ["tcp:127.0.0.1:10000"]
    assert len(made) == 10_000
    lines[4999] = "name5000: 127.0.0.1:5"
    replace(file, "\n".join(lines))
    assert lookup("name5000") == ["tcp:127.0.0.1:5"]
    assert made[10_000:] == ["tcp:127.0.0.1:5"]


def replace(file: Path, content: str) -> None:
    """As editors do."""
    other = file.with_suffix(".new")
    other.write_text(content)
    other.rename(file)


def test_changes(file: Path, said: list[str]) -> None:
    """The file counts as it is now: replaced, written over with the same length, and appended to."""
    file.write_text("a: h:1\n")
    lookup = read(file)
    for number in range(2, 9):
        file.write_text(f"a: h:{number}\n")
        assert lookup("a") == [f"tcp:h:{number}"]
        replace(file, f"a: h:{number + 1}\n")
        assert lookup("a") == [f"tcp:h:{number + 1}"]
    with file.open("a") as more:
        more.write("b: h:1\n")
    assert (lookup("a"), lookup("b")) == (["tcp:h:9"], ["tcp:h:1"])
    assert said == []


def test_changes_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that leaves no trace, since the kernel's clock has not moved, counts, too."""
    file.write_text("a: h:1\n")
    monkeypatch.setattr(module, "_seen", lambda status: "always the same")
    monkeypatch.setattr(module, "_TICK", 10**20)
    targets = TargetsFile(str(file), endpoint_of)
    file.write_text("a: h:2\n")
    assert targets.lookup("a") == ["tcp:h:2"]


def test_truncated(file: Path, said: list[str]) -> None:
    """An empty file has no targets, which is logged; the next content counts again."""
    file.write_text("a: h:1\n")
    lookup = read(file)
    os.truncate(file, 0)
    assert lookup("a") is None
    assert said.pop() == f"warn {file} has no targets"
    file.write_text("a: h:2\n")
    assert lookup("a") == ["tcp:h:2"]


def test_read_only_when_changed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has not changed for a moment is not read again."""
    file.write_text("a: h:1\n")
    # As if it had been written long ago.
    monkeypatch.setattr(module, "_TICK", 0)
    targets = TargetsFile(str(file), endpoint_of)
    monkeypatch.setattr(targets, "reload", lambda: pytest.fail("it was read again"))
    assert targets.lookup("a") == ["tcp:h:1"]
    monkeypatch.undo()
    targets.reload()
    assert targets.lookup("a") == ["tcp:h:1"]


@pytest.mark.parametrize("trouble", ["gone", "directory", "pipe", "loop"])
def test_unreadable(file: Path, said: list[str], trouble: str) -> None:
    """If the file cannot be read any more, what it said holds, and that is logged once."""
    file.write_text("a: h:1\n")
    lookup = read(file)
    why = spoil(file, trouble)
    for _ in range(3):
        assert lookup("a") == ["tcp:h:1"]
    assert said == [f"warn {file} cannot be read, and what it said before holds: {why}"]
    said.clear()
    file.rmdir() if file.is_dir() else file.unlink(missing_ok=True)
    replace(file, "a: h:2\n")
    assert lookup("a") == ["tcp:h:2"]
    spoil(file, "gone")
    lookup("a")
    assert len(said) == 1


def spoil(file: Path, trouble: str) -> str:
    """Make a file unreadable; returns why it is."""
    file.unlink(missing_ok=True)
    if trouble == "loop":
        file.symlink_to(file)
        return "Too many levels of symbolic links"
    if trouble == "directory":
        file.mkdir()
        return "Is a directory"
    if trouble == "pipe":
        os.mkfifo(file)
        return "it is not a file"
    return "No such file or directory"


@pytest.mark.parametrize("trouble", ["gone", "directory", "pipe", "loop"])
def test_unreadable_at_start(file: Path, trouble: str) -> None:
    """A file that cannot be read at the start is a usage error: exit code 2, and one line."""
    file.touch()
    why = spoil(file, trouble)
    assert f"--targets /t: {file}: {why}" in fails(2, "serve", "--targets", f"/t t {file}")


def test_serve(file: Path, tmp_path: Path) -> None:
    """``serve`` leads each name where the file says, also when it has changed; it logs broken lines."""

    def says(word: bytes) -> Callable[[socket.socket], object]:
        return lambda client: client.sendall(word)

    with Answering(says(b"one")) as one, Answering(says(b"two")) as two:
        file.write_text(f"one: tcp:127.0.0.1:{one}\n")
        targets = ["--targets", f"/t t {file}", "--targets", f"/ws websocket {file}"]
        with Process("serve", "--listen", "tcp:0:interface=127.0.0.1", *targets) as server:
            url = server.says().removeprefix("listening on ")
            assert run("connect", f"{url}t/one", "t").stdout == b"one"
            assert run("connect", f"{url}t?token=one", "t").stdout == b"one"
            assert run("connect", f"{url.replace('http', 'ws')}ws?token=one").stdout == b"one"
            assert "404 Not Found" in fails(3, "connect", f"{url}t/two", "t")
            # Which the log says, once; a line about each switch is there, too.
            while b"was not switched" not in (line := logged(server)):
                assert line
            assert b"no target is called two" in line
            replace(file, f"one: 127.0.0.1:{two}\ntwo: 127.0.0.1:{two}\nbroken\n")
            assert run("connect", f"{url}t/two", "t").stdout == b"two"
            assert run("connect", f"{url}t/one", "t").stdout == b"two"
            while b"line 3: it is not 'name: ENDPOINT'" not in (line := logged(server)):
                assert line
            server.terminate()
            server.ends()


def test_front_page(file: Path) -> None:
    """The page at / shows that a name belongs behind the path, and none of the names."""
    file.write_text("secret: h:1\n")
    with serving("--targets", f"/t t {file}") as server:
        host, port = server.url.removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
            page = client.makefile("rb").read()
    assert b"/t/NAME" in page
    assert b"secret" not in page


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--targets", "/t t"], "--targets needs '/PATH TOKEN FILE'"),
        (["--targets", "t t FILE"], "--targets needs '/PATH TOKEN FILE'"),
        (["--targets", "/ t FILE"], "--targets needs a /PATH, not /"),
        (["--targets", "/t t@ FILE"], "--targets '/t t@ "),
        (["--targets", "/t t FILE", "--targets", "/t T FILE"], "/t has two tunnels for T"),
        (["--targets", "/t t FILE", "--tunnel", "/t t tcp:h:1"], "/t has two tunnels for t"),
        (["--targets", "/t t FILE", "--tunnel", "/t/x t tcp:h:1"], "is below the path of another"),
        (["--targets", "/t t FILE", "--files", "/f FOLDER"], "is in that directory"),
        # Whoever knows the name would not need the password.
        (["--targets", "/t t FILE", "--auth", "/t/x memory:a:b"], "protect /t"),
        (
            ["--targets", "/t t FILE", "--files", "/ /dev/shm", "--auth", "/t//%78 memory:a:b"],
            "protect /t",
        ),
        (["--tunnel", "/t t tcp:h:65536"], "no port has the number 65536"),
    ],
)
def test_misuse(file: Path, options: list[str], named: str) -> None:
    """What cannot be meant is a usage error: exit code 2, and one line."""
    file.write_text("x: h:1\n")
    told = [one.replace("FILE", str(file)).replace("FOLDER", str(file.parent)) for one in options]
    assert named in fails(2, "serve", *told)


def test_in_the_file_of_options(file: Path, tmp_path: Path) -> None:
    """``targets`` may stand in the file with options, as a list."""
    with Answering(lambda client: client.sendall(b"hello")) as port:
        file.write_text(f"x: 127.0.0.1:{port}\n")
        config = tmp_path / "options.toml"
        config.write_text(f'targets = ["/t t {file}"]\n')
        with serving("--config", str(config)) as server:
            assert run("connect", f"{server.url}t/x", "t").stdout == b"hello"
