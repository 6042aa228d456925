"""
How ``connect`` and ``forward`` ask: fields, user and password, and whose certificates they trust.
"""

from __future__ import annotations

import os
import pty
import signal
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL.crypto import FILETYPE_PEM
from twisted.internet.ssl import KeyPair

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM, STRANGER, make_certificate
from tests.kit.commands import COMMAND, LOCAL, fails, listening, read_until, run, serving
from tests.kit.forwarding import Answering, connected, forwarding, logged
from tests.kit.harness import field

REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: %s realm=x\r\nContent-Length: 0\r\n\r\n"


def asked(*options: str, answer: bytes = REFUSAL, scheme: str = "http") -> tuple[bytes, str]:
    """What ``connect`` asks a server with these options, and the line that it says to the answer."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        client.sendall(answer)

    token = [] if scheme == "ws" else ["echo"]
    with listening(talk) as port:
        line = fails(3, "connect", *options, f"{scheme}://127.0.0.1:{port}/", *token)
    return heads[0].removesuffix(b"\r\n\r\n"), line


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_header(scheme: str) -> None:
    """Fields are sent as they were given, several of a name, too, and beside the upgrade's own."""
    given = ["X-One: 1", "X-Two:\tä: b ", "x-one: 2", "X-Empty:"]
    head, _ = asked(*(f"--header={value}" for value in given), scheme=scheme)
    assert field(head, b"x-one") == b"1, 2"
    assert field(head, b"x-two") == "ä: b".encode()
    assert field(head, b"x-empty") == b""
    assert field(head, b"upgrade") == (b"websocket" if scheme == "ws" else b"echo")
    assert field(head, b"connection") == b"Upgrade"


@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_host(scheme: str) -> None:
    """Host is sent in place of the URL's."""
    head, _ = asked("--header", "host: example.com:81", scheme=scheme)
    assert field(head, b"host") == b"example.com:81"


@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("user", ["name:password", "näme:pass:wörd", "name:", ":password"])
def test_user(user: str, scheme: str) -> None:
    """User and password are sent as HTTP Basic has it, in UTF-8; a colon may be in the password."""
    head, _ = asked("--user", user, scheme=scheme)
    assert field(head, b"authorization") == b"Basic " + b64encode(user.encode())


@pytest.mark.parametrize(
    ("options", "method", "expected"),
    [
        ([], b"Basic", "the server requires a user name and a password (--user)"),
        ([], b"Digest realm=y, basic", "the server requires a user name and a password (--user)"),
        (["--user", "a:b"], b"Basic", "the server does not accept this user name and password"),
        (["--user", "a:b"], b"Digest", "a kind of authentication that --user does not support"),
    ],
)
def test_unauthorized(options: list[str], method: bytes, expected: str) -> None:
    """A 401 says what is to be done: exit code 3, and one line."""
    _, line = asked(*options, answer=UNAUTHORIZED % method)
    assert expected in line
    assert "401 Unauthorized" in line


def test_forward_asks_the_same() -> None:
    """``forward`` sends the same fields, with each connection, and logs the same words."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        client.sendall(UNAUTHORIZED % b"Basic")

    with (
        listening(talk, connections=2) as port,
        forwarding("--user", "a:b", "--header", "X-A: b", LOCAL, f"ws://127.0.0.1:{port}") as process,
    ):
        for _ in range(2):
            with connected(process):
                assert b"the server does not accept this user name and password" in logged(process)
    assert {field(head, b"authorization") for head in heads} == {b"Basic " + b64encode(b"a:b")}
    assert {field(head, b"x-a") for head in heads} == {b"b"}


def test_password_on_the_terminal() -> None:
    """Without a password, it is asked for on the terminal, unseen; input and output are not touched."""
    heads = []

    def talk(client: socket.socket) -> None:
        heads.append(read_until(client, b"\r\n\r\n"))
        client.sendall(REFUSAL)

    with listening(talk) as port:
        pid, terminal = pty.fork()
        if pid == 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.dup2(null, 1)
            url = f"http://127.0.0.1:{port}/"
            os.execv(COMMAND, [COMMAND, "connect", "--user", "name", url, "echo"])
        shown = b""
        while f"Password of name for 127.0.0.1:{port}: ".encode() not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, "pässword\n".encode())
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 3
    assert field(heads[0].removesuffix(b"\r\n\r\n"), b"authorization") == b"Basic " + b64encode(
        "name:pässword".encode()
    )


def test_password_for_several_ports(tmp_path: Path) -> None:
    """A password is asked for once for each server, and the question says for which one."""
    config, at, other = tmp_path / "forwards.toml", "http://a.invalid/", "http://b.invalid/"
    tables = [f'[[forward]]\nlisten = 0\ntoken = "t"\nurl = "{url}"\n' for url in (at, at, other)]
    config.write_text("".join(tables))
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND, [COMMAND, "forward", "--user", "ann", "--config", str(config)])
    shown = b""
    for server in (b"a.invalid", b"b.invalid"):
        while not shown.endswith(b" for " + server + b": "):
            shown += os.read(terminal, 1000)
        os.write(terminal, b"secret\n")
    while shown.count(b"listening on") < 3:
        shown += os.read(terminal, 1000)
    os.kill(pid, signal.SIGTERM)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert shown.count(b"Password of ann for ") == 2


def test_no_terminal() -> None:
    """Without a password and without a terminal: exit code 2, and one line."""
    line = fails(2, "connect", "--user", "name", "http://h/", "t", start_new_session=True)
    assert "no terminal" in line


BAD = {
    "no colon": (["--header", "Nonsense"], "--header"),
    "no name": (["--header", ": x"], "--header"),
    "no token": (["--header", "A b: x"], "--header"),
    "line break": (["--header", "X-A: b\r\nX-C: d"], "--header X-A"),
    "line feed": (["--header", "X-A: b\n"], "--header X-A"),
    "control character": (["--header", "X-A: \x01"], "--header X-A"),
    "length": (["--header", "content-length: 3"], "--header content-length"),
    "coding": (["--header", "Transfer-Encoding: chunked"], "--header Transfer-Encoding"),
    "connection": (["--header", "Connection: close"], "--header Connection"),
    "upgrade": (["--header", "Upgrade: h2c"], "--header Upgrade"),
    "no host": (["--header", "Host: a b"], "--header Host"),
    "two hosts": (["--header", "Host: a", "--header", "host: b"], "--header Host"),
    "nobody": (["--user", ""], "--user"),
    "user with a line break": (["--user", "a\n:b"], "--user"),
    "two users": (["--user", "a:b", "--header", "Authorization: x"], "--user"),
    "no file": (["--ca", "/nowhere/ca.pem"], "--ca /nowhere/ca.pem: No such file"),
    "directory": (["--ca", "/"], "--ca /"),
    "no certificates": (["--ca", "/dev/null"], "--ca /dev/null: no certificates"),
    "both": (["--insecure", "--ca", "/dev/null"], "--ca and --insecure"),
}


@pytest.mark.parametrize(("options", "named"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("command", [("connect",), ("forward", LOCAL)])
def test_wrong_options(command: tuple[str], options: list[str], named: str) -> None:
    """Wrong options are a usage error: exit code 2, and one line that names them."""
    name, *arguments = command
    assert named in fails(2, name, *options, *arguments, "https://127.0.0.1/", "echo")


@pytest.mark.parametrize(
    ("options", "url", "named"),
    [
        (["--insecure"], "http://h/", "--insecure is for https"),
        (["--ca", "/dev/null"], "ws://h/", "--ca is for https"),
        (["--header", "Sec-WebSocket-Key: x"], "wss://h/", "--header sec-websocket-key"),
        ([], "http://name:password@h/", "--user"),
    ],
)
def test_options_and_urls(options: list[str], url: str, named: str) -> None:
    """Options that do not fit the URL are a usage error: exit code 2, and one line that names them."""
    token = [] if url.startswith("ws") else ["t"]
    assert named.lower() in fails(2, "connect", *options, url, *token).lower()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates: a server's, a stranger's, and another server's; and the keys."""
    path = tmp_path_factory.mktemp("tls")
    another, another_key = make_certificate("another.example")
    # Without subjectAltName.
    key = KeyPair.generate(size=2048)
    nameless = key.selfSignedCert(1, CN=b"localhost").dumpPEM()
    files = {
        "ca.pem": CERTIFICATE_PEM,
        "key.pem": KEY_PEM,
        "stranger.pem": STRANGER.dumpPEM(),
        "another.pem": another,
        "another.key": another_key,
        "nameless.pem": nameless,
        "nameless.key": key.dump(FILETYPE_PEM),
        "several.pem": b"Two of them:\n" + another + CERTIFICATE_PEM,
    }
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.fixture(scope="module")
def ports(folder: Path) -> Iterator[list[str]]:
    """The ports of three TLS servers: of this name, of another, and of none. They say hello."""

    def hello(client: socket.socket) -> None:
        client.sendall(b"hello")

    with Answering(hello) as behind:
        to = f"tcp:127.0.0.1:{behind}"
        pairs = [("ca", "key.pem"), ("another", "another.key"), ("nameless", "nameless.key")]
        listen = tuple(
            f"ssl:0:interface=127.0.0.1:privateKey={folder}/{key}:certKey={folder}/{name}.pem"
            for name, key in pairs
        )
        options = ["--tunnel", f"/t t {to}", "--tunnel", f"/ws websocket {to}"]
        with serving(*options, listen=listen) as server:
            by_port = dict(zip(listen, server.addresses, strict=True))
            yield [by_port[endpoint].rstrip("/").rpartition(":")[2] for endpoint in listen]


ASK = [("https", "/t", ["t"]), ("wss", "/ws", []), ("https", "/ws", ["websocket"])]
ask = pytest.mark.parametrize(("scheme", "path", "token"), ASK, ids=["token", "wss", "https"])


@ask
@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("localhost", ["--ca", "{}/ca.pem"]),
        ("127.0.0.1", ["--ca", "{}/several.pem"]),
        ("localhost", ["--insecure"]),
        ("127.0.0.1", ["--insecure"]),
    ],
)
def test_tls(
    host: str,
    options: list[str],
    scheme: str,
    path: str,
    token: list[str],
    ports: list[str],
    folder: Path,
) -> None:
    """A server whose certificate is among those in --ca, and any with --insecure, is talked with."""
    told = [option.format(folder) for option in options]
    done = run("connect", *told, f"{scheme}://{host}:{ports[0]}{path}", *token)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")


@ask
@pytest.mark.parametrize("options", [["--ca", "{}/stranger.pem"], []])
def test_not_trusted(
    options: list[str], scheme: str, path: str, token: list[str], ports: list[str], folder: Path
) -> None:
    """A server whose certificate nobody knows: exit code 1, and one line that says so."""
    told = [option.format(folder) for option in options]
    line = fails(1, "connect", *told, f"{scheme}://localhost:{ports[0]}{path}", *token)
    assert "the server's certificate is not trusted: certificate verify failed" in line


@ask
@pytest.mark.parametrize(
    ("at", "file", "said"),
    [
        (1, "another.pem", "it is for another name"),
        (2, "nameless.pem", "Certificate does not contain any `subjectAltName`s."),
    ],
)
def test_other_name(
    at: int,
    file: str,
    said: str,
    scheme: str,
    path: str,
    token: list[str],
    ports: list[str],
    folder: Path,
) -> None:
    """A certificate for another name, or for none: exit code 1, and one line that says so."""
    url = f"{scheme}://localhost:{ports[at]}{path}"
    line = fails(1, "connect", "--ca", f"{folder}/{file}", url, *token)
    assert f"the server's certificate is not trusted: {said}" in line
