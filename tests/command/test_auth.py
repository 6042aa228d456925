"""
``upgrade-switch serve --auth``: user names and passwords for a site, or for parts of it.
"""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.commands import (
    COMMAND,
    LOCAL,
    PATIENCE,
    echo,
    fails,
    listening,
    read_until,
    run,
    serving,
)
from tests.kit.foreign import needs
from tests.kit.harness import field, status, upgrade_head
from tests.kit.operating import TWIST, Operated, connected, get, upgraded
from tests.kit.programs import run_script


def basic(credentials: str) -> bytes:
    """The field with a name and a password."""
    return b"Authorization: Basic " + b64encode(credentials.encode()) + b"\r\n"


OPS, GUEST = basic("ops:secret"), basic("guest:welcome")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server, with files at its root, that asks for passwords at some paths."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "index.html").write_text("welcome")
    for name in ("private", "private/deep", "a b"):
        (folder / name).mkdir()
        (folder / name / "file.txt").write_text("a secret")
    options = [
        *("--files", f"/ {folder}"),
        *("--tunnel", "/private/echo echo tcp:127.0.0.1:1"),
        *("--status", "/status"),
        *("--auth", "/private memory:ops:secret"),
        *("--auth", "/private/ memory:guest:welcome"),
        *("--auth", "/private/deep memory:deep:secret"),
        *("--auth", "/a%20b/ memory:ops:secret"),
        *("--auth", "/status memory:ops:secret"),
    ]
    with serving(*options) as server:
        yield server.url


def test_free(url: str) -> None:
    """What lies elsewhere asks nobody."""
    assert get(url)[0] == 200
    assert get(url, "/nowhere")[0] == 404
    assert get(url, "/privateer")[0] == 404


@pytest.mark.parametrize(
    "target",
    ["/private/file.txt", "/private", "/private/", "/private/nowhere", "/a%20b/file.txt", "/status",
     "/status/json", "/status/metrics", "/private/echo"],
)  # fmt: skip
def test_guarded(url: str, target: str) -> None:
    """Without a password, or with a wrong one: 401, with a challenge; HEAD and POST, too."""
    for fields in (b"", basic("ops:wrong"), basic("guest"), b"Authorization: Basic ~\r\n"):
        code, got = get(url, target, fields)
        assert code == 401
        assert field(got.partition(b"\r\n\r\n")[0], b"www-authenticate") == (
            b'basic realm="upgrade_switch"'
        )
        assert b"secret" not in got
    code, got = get(url, target, OPS)
    assert code in (200, 301, 302, 404, 426)


def test_several_methods(url: str) -> None:
    """Several methods for one path: whom one of them lets in is in."""
    for fields in (OPS, GUEST):
        assert get(url, "/private/file.txt", fields)[0] == 200
    assert get(url, "/status", GUEST)[0] == 401


def test_longest_path_decides_alone(url: str) -> None:
    """Who may go to a path may not go to what is below it, where that has a method of its own."""
    assert get(url, "/private/deep/file.txt", OPS)[0] == 401
    assert get(url, "/private/deep/file.txt", basic("deep:secret"))[0] == 200
    assert get(url, "/private/file.txt", basic("deep:secret"))[0] == 401


@pytest.mark.parametrize(
    "target",
    [
        "//private/file.txt",
        "/./private/file.txt",
        "/private//file.txt",
        "/private/./file.txt",
        "/%70rivate/file.txt",
        "/%2e/private/file.txt",
        "/private%2Ffile.txt",
        "/private%2F/file.txt",
        "/private%2f./file.txt",
        "/.%2Fprivate/file.txt",
        "/%2Fprivate/file.txt",
        "/x%2F..%2Fprivate/file.txt",
        "/x/../private/file.txt",
        "/x/%2e%2e/private/file.txt",
        "/private/../private/file.txt",
        "/private/deep/../file.txt",
        "/private/file.txt?x",
        "/private/file.txt%00",
        "http://localhost/private/file.txt",
        "/private%2Fdeep%2F../file.txt",
    ],
)
def test_other_spellings(url: str, target: str) -> None:
    """No spelling of a path leads around the password."""
    code, got = get(url, target)
    assert code in (400, 401, 404)
    assert b"a secret" not in got


@pytest.mark.parametrize(
    "target",
    ["/private/%2e%2e/private/echo", "/private/./echo", "//private/echo", "/private/echo/",
     "/private/echo/x", "/private%2Fecho"],
)  # fmt: skip
def test_other_spellings_of_an_upgrade(url: str, target: str) -> None:
    """Nor to an upgrade."""
    with connected(url) as client:
        client.sendall(upgrade_head(path=target.encode()))
        assert status(read_until(client, b"\r\n\r\n")) in (401, 404)


MODULE = """
from twisted.web.static import File


def files():
    return File({folder!r})
"""


def test_resources_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does any lead around it where a resource cleans its names up by itself."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "file.txt").write_text("a secret")
    (tmp_path / "things.py").write_text(MODULE.format(folder=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    options = ["--class", "/files things.files", "--auth", "/files/private memory:ops:secret"]
    with serving(*options) as server:
        for spelling in ("private%2F", "private%2F.", ".%2Fprivate", "x%2F..%2Fprivate", "private"):
            code, got = get(server.url, f"/files/{spelling}/file.txt")
            assert code in (401, 404)
            assert b"a secret" not in got
        assert get(server.url, "/files/private/file.txt", OPS)[0] == 200


@pytest.fixture
def everything() -> Iterator[str]:
    """A server that asks everybody, with a tunnel and one for browsers."""
    with listening(echo, connections=2) as port:
        tunnels = [f"/{token} {token} tcp:127.0.0.1:{port}" for token in ("ssh", "websocket")]
        options = [part for tunnel in tunnels for part in ("--tunnel", tunnel)]
        with serving(*options, "--auth", "memory:ops:secret", "--h2c") as server:
            yield server.url


WEBSOCKET = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"


def test_whole_site(everything: str) -> None:
    """Without a path, the whole site asks: pages, upgrades, WebSockets, what is not there."""
    for target in ("/", "/ssh", "/websocket", "/nowhere"):
        assert get(everything, target)[0] == 401
    assert get(everything, "/", OPS)[0] == 200
    assert get(everything, "/nowhere", OPS)[0] == 404
    for token, fields in (("ssh", b""), ("websocket", WEBSOCKET)):
        head = upgrade_head(token.encode(), path=f"/{token}".encode(), fields=fields)
        with connected(everything) as client:
            client.sendall(head)
            assert status(read_until(client, b"\r\n\r\n")) == 401
        with upgraded(everything, f"/{token}", token, fields + OPS) as client:
            if token == "ssh":
                client.sendall(b"hello")
                assert read_until(client, b"hello") == b"hello"


@needs("curl")
def test_http_2(everything: str) -> None:
    """Nor does HTTP/2 lead around it, by an upgrade or by prior knowledge."""
    for option in ("--http2", "--http2-prior-knowledge"):
        for user, code in ((["--user", "ops:secret"], "200"), ([], "401")):
            command = ["curl", "-s", "-o", "-", "-w", "%{stderr}%{http_version} %{http_code}"]
            done = subprocess.run(
                [*command, option, *user, everything],
                capture_output=True,
                timeout=PATIENCE,
                check=False,
                text=True,
            )
            assert done.stderr == f"2 {code}"
    # The tunnels have to have been used.
    for token, fields in (("ssh", b""), ("websocket", WEBSOCKET)):
        upgraded(everything, f"/{token}", token, fields + OPS).close()


@pytest.mark.parametrize("method", ["unix", "memory:ops:secret", "file"])
def test_odd_names(method: str, tmp_path: Path) -> None:
    """What is no text, or has a NUL in it, is nobody's name or password: 401; the log is empty."""
    if method == "file":
        (tmp_path / "passwords").write_text("ops:secret\n")
        method = f"file:{tmp_path}/passwords"
    with serving("--auth", method) as server:
        for odd in (b"\xff:x", b"\0:x", b"root:\xff", b"root:\0", b":", b"", b"x" * 9000 + b":x"):
            field = b"Authorization: Basic " + b64encode(odd) + b"\r\n"
            assert get(server.url, "/", field)[0] == 401


def test_connect(tmp_path: Path) -> None:
    """``connect --user`` gets in, with names that are not ASCII, too."""
    passwords = tmp_path / "passwords"
    passwords.write_text("ops:secret\nJürgen:Köln\n", "utf-8")
    with serving("--auth", f"/echo file:{passwords}") as server:
        for user in ("ops:secret", "Jürgen:Köln"):
            done = run("connect", "--user", user, f"{server.url}echo", "echo", input=b"hello")
            assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
        done = run("connect", "--user", "ops:wrong", f"{server.url}echo", "echo", input=b"hello")
        assert (done.returncode, done.stdout) == (3, b"")
        assert b"401" in done.stderr


def test_file_changes(tmp_path: Path) -> None:
    """A file of passwords may be changed while the server runs."""
    passwords = tmp_path / "passwords"
    passwords.write_text("ops:secret\n")
    with serving("--auth", f"file:{passwords}") as server:
        assert get(server.url, "/", OPS)[0] == 200
        passwords.write_text("guest:welcome\n")
        assert get(server.url, "/", OPS)[0] == 401
        assert get(server.url, "/", GUEST)[0] == 200


def test_file_goes(tmp_path: Path) -> None:
    """Where the file is gone, nobody gets in, and the log says why."""
    passwords = tmp_path / "passwords"
    passwords.write_text("ops:secret\n")
    command = [COMMAND, "serve", "--listen", LOCAL]
    with Operated(command, "--auth", f"file:{passwords}") as server:
        url = server.listens()
        passwords.unlink()
        assert get(url, "/", OPS)[0] == 401
        server.terminate()
        code, _out, error = server.ends()
    assert code == 0
    assert b"Unable to load credentials db: FileNotFoundError" in error
    assert b"secret" not in error


def test_preface_is_not_asked() -> None:
    """Who connects with a preface is not asked: it has no fields."""
    with listening(echo) as port:
        options = ["--preface", rf"HELLO\r\n tcp:127.0.0.1:{port}", "--auth", "memory:ops:secret"]
        with serving(*options) as server, connected(server.url) as client:
            client.sendall(b"HELLO\r\nthere")
            assert read_until(client, b"there") == b"HELLO\r\nthere"


@pytest.mark.parametrize("command", [[COMMAND, "serve"], [TWIST, "upgrade-switch"]])
@pytest.mark.parametrize(
    ("option", "said"), [("--help-auth", "memory"), ("--help-auth-type=file", "username:password")]
)
def test_help_auth(command: list[str], option: str, said: str) -> None:
    """``--help-auth`` lists methods, ``--help-auth-type`` explains one."""
    done = run_script([*command, option])
    assert (done.returncode, done.stderr) == (0, b"")
    assert said in done.stdout.decode()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "/x",
        "/x ",
        "/x?y memory:ops:hunter2",
        "nothing:ops:hunter2",
        "/x nothing:ops:hunter2",
        "memory:ops:hunter2:guest",
        "memory:hunter2",
        "file:/no/such/file",
        "file:/",
        "file:",
        "file",
        "ops",
    ],
)
def test_wrong_values(value: str) -> None:
    """Exit code 2, and one line that says so, and tells no password."""
    line = fails(2, "serve", "--listen", LOCAL, "--auth", value)
    assert "--auth" in line
    assert "hunter2" not in line


@pytest.mark.parametrize("path", ["/dbx", "/d", "/statu/s"])
def test_guards_nothing(path: str) -> None:
    """A path where nothing is, nor above or below it, is a mistake that would leave something open."""
    options = ["--tunnel", "/a/db x tcp:127.0.0.1:1", "--status", "/status"]
    line = fails(2, "serve", "--listen", LOCAL, *options, "--auth", f"{path} memory:a:b")
    assert f"--auth: no resource at {path}; available: /a/db, /status" in line


@pytest.mark.parametrize("path", ["/a", "/a/db", "/a/db/below", "/status/json"])
def test_guards_a_part(path: str) -> None:
    """A path above or below a resource is not that resource's."""
    options = ["--tunnel", "/a/db x tcp:127.0.0.1:1", "--status", "/status"]
    with serving(*options, "--auth", f"{path} memory:a:b"):
        pass


@pytest.mark.parametrize("path", ["/status", "/status/json", "/status/metrics"])
def test_status_is_guarded(path: str) -> None:
    """A status page wants one of the passwords that there are, where no --auth names it."""
    options = ["--auth", "/echo memory:ops:secret", "--status", "/status"]
    with serving(*options) as server:
        assert get(server.url, path)[0] == 401
        assert get(server.url, path, basic("ops:wrong"))[0] == 401
        assert get(server.url, path, OPS)[0] == 200
        assert get(server.url, "/")[0] == 200


def test_user() -> None:
    """The status page, and the log, know who was let in."""
    options = ["--auth", "/echo memory:ops:secret", "--status", "/status"]
    with serving(*options) as server, connected(server.url) as client:
        client.sendall(upgrade_head(path=b"/echo", fields=OPS))
        assert status(read_until(client, b"\r\n\r\n")) == 101
        _code, got = get(server.url, "/status/json", OPS)
        (shown,) = json.loads(got.partition(b"\r\n\r\n")[2])["switched"]
        assert (shown["path"], shown["user"]) == ("/echo", "ops")
