"""``upgrade-switch serve --connect-to``: a proxy for CONNECT."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.commands import LOCAL, echo, fails, listening, read_until, serving
from tests.kit.harness import field, status
from tests.kit.operating import TWIST, connected, get, operated
from tests.kit.programs import run_script


def head_of(authority: str, fields: str = "") -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{fields}\r\n".encode()


def proxy_authorization(user: str) -> str:
    return f"Proxy-Authorization: Basic {b64encode(user.encode()).decode()}\r\n"


OPS = proxy_authorization("ops:secret")


def answered(url: str, authority: str, fields: str = "") -> bytes:
    """The head of the answer to a CONNECT."""
    with connected(url) as client:
        client.sendall(head_of(authority, fields))
        return read_until(client, b"\r\n\r\n")


def echoes(url: str, authority: str, fields: str = "") -> None:
    """A CONNECT leads to an echo."""
    with connected(url) as client:
        client.sendall(head_of(authority, fields))
        head = read_until(client, b"\r\n\r\n")
        assert status(head) == 200, head
        client.sendall(b"hello")
        assert client.recv(5) == b"hello"


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that echoes once."""
    with listening(echo) as number:
        yield number


def test_connected(port: int) -> None:
    """A client goes where an option says that it may, and nowhere else."""
    options = [*("--connect-to", f"localhost:{port}"), *("--connect-to", "192.0.2.0/24:1-79")]
    with serving(*options) as server:
        for authority, code, error in (
            (f"127.0.0.1:{port}", 403, b"destination_ip_prohibited"),
            ("localhost:80", 403, b"http_request_denied"),
            ("192.0.2.1:80", 403, b"http_request_denied"),
        ):
            head = answered(server.url, authority)
            wanted = b"upgrade_switch; error=" + error
            assert (status(head), field(head, b"proxy-status")) == (code, wanted)
        echoes(server.url, f"localhost:{port}")
        # The front page says how, but not where clients may go.
        page = get(server.url)[1]
        assert b"<code>curl --proxytunnel --proxy http://localhost URL</code>" in page
        assert b"192.0.2.0" not in page


def test_without() -> None:
    """Without the option there is no proxy: 501, and the front page does not speak of one."""
    with serving() as server:
        assert status(answered(server.url, "localhost:80")) == 501
        assert b"--proxytunnel" not in get(server.url)[1]


def test_auth(port: int) -> None:
    """With --auth, CONNECT needs Proxy-Authorization, and pages need Authorization, as ever."""
    options = [*("--connect-to", f"127.0.0.1:{port}"), *("--auth", "memory:ops:secret")]
    with serving(*options, "--auth", "/echo memory:guest:welcome") as server:
        for fields in ("", OPS.removeprefix("Proxy-"), proxy_authorization("guest:welcome")):
            head = answered(server.url, f"127.0.0.1:{port}", fields)
            assert status(head) == 407
            challenge = field(head, b"proxy-authenticate")
            assert challenge is not None
            assert challenge.startswith(b'Basic realm="upgrade_switch"')
        assert get(server.url, "/", OPS.encode())[0] == 401
        assert get(server.url, "/", OPS.removeprefix("Proxy-").encode())[0] == 200
        echoes(server.url, f"127.0.0.1:{port}", OPS)


def test_status_page(port: int) -> None:
    """The status page shows where the connection goes, and who has it."""
    options = [*("--connect-to", f"127.0.0.1:{port}"), *("--auth", "memory:ops:secret")]
    with serving(*options, "--status", "/status") as server, connected(server.url) as client:
        client.sendall(head_of(f"127.0.0.1:{port}", OPS))
        assert status(read_until(client, b"\r\n\r\n")) == 200
        _code, got = get(server.url, "/status/json", OPS.removeprefix("Proxy-").encode())
        assert f'"path": "127.0.0.1:{port}"'.encode() in got
        assert b'"user": "ops"' in got
        client.sendall(b"hello")


def test_config(port: int, tmp_path: Path) -> None:
    """In a file, it is a list, to which the command line adds."""
    config = tmp_path / "serve.toml"
    config.write_text(f'connect-to = ["127.0.0.1:{port}", "192.0.2.1:443"]\n')
    with serving("--config", str(config), "--connect-to", "192.0.2.2:443") as server:
        echoes(server.url, f"127.0.0.1:{port}")
        assert status(answered(server.url, "192.0.2.3:443")) == 403


def test_twist(port: int) -> None:
    """twist has the same option."""
    with operated("twist", "--connect-to", f"127.0.0.1:{port}") as server:
        echoes(server.url, f"127.0.0.1:{port}")  # type: ignore[attr-defined]
        server.terminate()
        server.finishes()


def test_idle(port: int) -> None:
    """--idle-timeout is for these connections, too."""
    options = [*("--connect-to", f"127.0.0.1:{port}"), *("--idle-timeout", "0.05")]
    with serving(*options) as server, connected(server.url) as client:
        client.sendall(head_of(f"127.0.0.1:{port}"))
        assert status(read_until(client, b"\r\n\r\n")) == 200
        with pytest.raises(ConnectionResetError):
            client.recv(1)


@pytest.mark.parametrize(
    "value",
    ["", "example.com", "example.com:0", "[::1]", "::1:22", "127.1:22", "*foo.example:1", "a b:1"],
)
def test_wrong_values(value: str) -> None:
    """A malformed destination is a usage error."""
    line = fails(2, "serve", "--listen", LOCAL, "--connect-to", value)
    assert "--connect-to" in line
    assert repr(value) in line


PARTLY = ["--connect-to", "example.com:443", "--auth", "/echo memory:ops:secret"]


def test_auth_for_some_paths_only() -> None:
    """CONNECT has no path: passwords for some paths only would leave it open, and are refused."""
    line = fails(2, "serve", "--listen", LOCAL, *PARTLY)
    assert "--connect-to together with --auth for some paths only" in line


def test_auth_for_some_paths_only_with_twist() -> None:
    """twist refuses them, too."""
    done = run_script([TWIST, "upgrade-switch", "--listen", LOCAL, *PARTLY])
    assert done.returncode == 2
    assert b"--connect-to together with --auth for some paths only" in done.stderr


def test_wrong_config(tmp_path: Path) -> None:
    """So does a file, which the message names."""
    config = tmp_path / "serve.toml"
    config.write_text('connect-to = ["nonsense"]\n')
    line = fails(2, "serve", "--listen", LOCAL, "--config", str(config))
    assert str(config) in line
    assert "'nonsense'" in line
