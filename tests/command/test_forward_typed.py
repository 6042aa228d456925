"""
``forward`` as a person types it: ports, hosts and ports, options in any place, and a file with tables.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from twisted.python.usage import UsageError

from tests.kit.commands import LOCAL, PATIENCE, Process, echo, fails, read_all, read_until, run, switch
from tests.kit.commands import listening as listening_once
from tests.kit.documented import Ports
from tests.kit.forwarding import Answering, connected, forwarding
from upgrade_switch.command.client.local import local_endpoint_string

TYPED = {
    "5432": "tcp:5432:interface=127.0.0.1",
    "0": "tcp:0:interface=127.0.0.1",
    "127.0.0.1:5432": "tcp:5432:interface=127.0.0.1",
    "localhost:5432": "tcp:5432:interface=127.0.0.1",
    "LocalHost:5432": "tcp:5432:interface=127.0.0.1",
    "0.0.0.0:5432": "tcp:5432:interface=0.0.0.0",
    "[::1]:5432": "tcp:5432:interface=\\:\\:1",
    "[::]:5432": "tcp:5432:interface=\\:\\:",
    # Endpoint strings, or nothing.
    "tcp:5432": "tcp:5432",
    "unix:5432": "unix:5432",
    "fd:3": "fd:3",
    "example.com:5432": "example.com:5432",
    "::1:5432": "::1:5432",
    "[x]:1": "[x]:1",
    ":5432": ":5432",
    "-1": "-1",
    "٣": "٣",
}


@pytest.mark.parametrize(("text", "string"), TYPED.items())
def test_local_endpoints(text: str, string: str) -> None:
    """A port alone is on loopback; what is neither a port nor a host and a port is left as it is."""
    assert local_endpoint_string(text) == string
    if string != text:
        assert local_endpoint_string(text, is_udp=True) == string.replace("tcp", "udp")


@pytest.mark.parametrize("text", ["65536", "127.0.0.1:65536", "[::1]:999999999"])
def test_no_such_port(text: str) -> None:
    """A port that cannot be is a usage error."""
    with pytest.raises(UsageError, match="65535"):
        local_endpoint_string(text)
    assert "65535" in fails(2, "forward", text, "ws://127.0.0.1/")


@pytest.mark.parametrize("text", ["*:5432", "5432/tcp"])
def test_nowhere(text: str) -> None:
    """What is nothing of all that is a usage error, which does not suggest every interface."""
    line = fails(2, "forward", text, "ws://127.0.0.1/")
    assert "(127.0.0.1:5432)" in line
    assert "tcp:8080" not in line


def talk(client: socket.socket) -> None:
    switch(client)
    echo(client)


@pytest.mark.parametrize("host", ["", "127.0.0.1:", "localhost:"])
def test_port(host: str) -> None:
    """A port, and a host and a port, listen there, on loopback; there is no warning."""
    with Ports() as ports, Answering(talk) as port:
        local = f"{host}{ports['here']}"
        with forwarding(local, f"http://127.0.0.1:{port}/", "echo") as process:
            assert process.address == ("127.0.0.1", int(ports["here"]))
            with closing(connected(process)) as client:
                client.sendall(b"hello")
                assert client.recv(5) == b"hello"


@pytest.mark.parametrize(
    "local",
    ["tcp:0", "tcp:0:interface=0.0.0.0", "tcp:0:interface=\\:\\:", "[::ffff:0.0.0.0]:0"],
)
def test_every_interface(local: str) -> None:
    """A port on every interface is said to be one, in one line."""
    with forwarding(local, "ws://127.0.0.1/", lines=1) as process:
        pass
    assert process.address[0] in ("0.0.0.0", "[::]", "[::ffff:0.0.0.0]")


def test_line_of_the_warning() -> None:
    """The line says what the danger is, and what to type instead."""
    with Process("forward", "tcp:0", "ws://127.0.0.1/", stdin=None, stdout=None) as process:
        port = process.says().rpartition(":")[2]
        line = process.says()
        assert "is on every interface" in line
        assert f"'forward {port} ...'" in line
        process.terminate()
        process.ends()


def test_udp_port() -> None:
    """With --udp-to, a port alone is one of UDP, on loopback."""
    with forwarding("--udp-to", "h:53", "0", "http://127.0.0.1/") as process:
        host, port = process.address
        assert host == "127.0.0.1"
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken,
            pytest.raises(OSError, match="in use"),
        ):
            taken.bind((host, port))
    with forwarding("--udp-to", "h:53", "udp:0", "http://127.0.0.1/", lines=1):
        pass


ORDERS = [
    ["--header", "X-A: b", "URL", "echo"],
    ["URL", "--header", "X-A: b", "echo"],
    ["URL", "echo", "--header=X-A: b"],
    ["URL", "echo", "--head", "X-A: b"],
    ["--via=", "URL", "echo", "--header", "X-A: b", "--eof", "close"],
    ["--header", "X-A: b", "--", "URL", "echo"],
]


@pytest.mark.parametrize("words", ORDERS, ids=" ".join)
def test_options_anywhere(words: list[str]) -> None:
    """Options may stand in front of the URL, behind it, and in between."""
    heads = []

    def note(client: socket.socket) -> None:
        heads.append(client.recv(65536))
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with listening_once(note) as port:
        told = [word.replace("URL", f"http://127.0.0.1:{port}/") for word in words]
        fails(3, "connect", *told)
    assert b"X-A: b\r\n" in heads[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["connect", "http://h/", "t", "--nonsense"], "--nonsense not recognized"),
        (["connect", "http://h/", "t", "--user"], "--user requires argument"),
        (["connect", "http://h/", "t", "--insecure=yes"], "must not have an argument"),
        (["connect", "http://h/", "--", "--insecure", "t"], "two arguments are needed"),
        (["forward", LOCAL, "ws://h/", "--insecure"], "--insecure is for https"),
        (["connect", "http://h/"], "a TOKEN is needed"),
        (["forward", LOCAL, "http://h/"], "a TOKEN is needed"),
        (["serve", "--h2c", "more", "--listen", LOCAL], "unexpected argument 'more'"),
    ],
)
def test_wrong_options_anywhere(arguments: list[str], named: str) -> None:
    """Wrong options behind the URL are usage errors: exit code 2, and one line."""
    assert named in fails(2, *arguments)


# The file with tables.


def test_tables(tmp_path: Path) -> None:
    """
    Each table is a port of its own, with options of its own; the command line adds to all, but what is
    to prove who the user is goes to no other server than the one that it is for.
    """
    config, user = tmp_path / "forwards.toml", tmp_path / "user"
    for file in (config, user):
        file.touch(0o600)
    user.write_text("c:d")
    heads = []

    def note(client: socket.socket) -> None:
        heads.append(client.recv(65536).decode())
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with Answering(note) as port, Answering(talk) as other:
        config.write_text(f"""
[[forward]]
listen = 0
url = "http://127.0.0.1:{port}/"
token = "one"
header = ["X-A: 1", "X-B: 2"]
user = "a:b"
timeout = 5
forgive-truncation = false

[[forward]]
listen = "127.0.0.1:0"
url = "http://127.0.0.1:{other}/two"
token = "echo"
forgive-truncation = true
eof = "close"

[[forward]]
listen = 0
url = "http://127.0.0.1:{port}/"
token = "three"
""")
        words = ["--config", str(config), "--header", "X-C: 3", "--user-file", str(user)]
        with Process("forward", *words, stdin=None, stdout=None) as process:
            addresses = []
            for _ in range(3):
                host, _, here = process.says().removeprefix("listening on ").rpartition(":")
                addresses.append((host, int(here)))
            for refused in (addresses[0], addresses[2]):
                # The refusal aborts it.
                with socket.create_connection(refused) as client, suppress(ConnectionResetError):
                    assert client.recv(1) == b""
            with socket.create_connection(addresses[1], PATIENCE) as client:
                client.sendall(b"hello")
                assert read_until(client, b"hello") == b"hello"
            process.terminate()
            code, _, said = process.ends()
    assert code == 0
    assert b"http://127.0.0.1" in said
    for line in ("X-A: 1", "X-B: 2", "X-C: 3", "Authorization: Basic YTpi", "Upgrade: one"):
        assert f"\r\n{line}\r\n" in heads[0], heads
    assert "Yzpk" not in heads[0]
    assert "\r\nAuthorization: Basic Yzpk\r\n" in heads[1]


def test_tables_share_what_is_read_once(tmp_path: Path) -> None:
    """What the command line adds may come from pipes, which are empty when they have been read."""
    config, heads = tmp_path / "forwards.toml", []

    def note(client: socket.socket) -> None:
        heads.append(read_until(client, b"content"))
        client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with Answering(note) as port, ExitStack() as opened:
        table = f'[[forward]]\nlisten = 0\nurl = "http://127.0.0.1:{port}/"\ntoken = "t"\n'
        config.write_text(table * 2)
        pipes = []
        for secret in (b"a:b\n", b"X-A: 1\n", b"content"):
            end, other = os.pipe()
            pipes.append(opened.enter_context(open(end, "rb")))
            os.write(other, secret)
            os.close(other)
        user, header, data = (f"/dev/fd/{pipe.fileno()}" for pipe in pipes)
        words = ["--config", str(config), "--user-file", user, "--header", f"@{header}"]
        words += ["--data", f"@{data}"]
        fds = [pipe.fileno() for pipe in pipes]
        with Process("forward", *words, stdin=None, stdout=None, pass_fds=fds) as process:
            for here in [process.says().rpartition(":")[2] for _ in range(2)]:
                with socket.create_connection(("127.0.0.1", int(here)), PATIENCE) as client:
                    assert read_all(client) == b""
            process.terminate()
            process.ends()
    assert len(heads) == 2
    for head in heads:
        assert b"Authorization: Basic YTpi\r\n" in head
        assert b"X-A: 1\r\n" in head


GOOD = 'listen = 0\nurl = "http://h/"\ntoken = "t"\n'

WRONG: dict[str, tuple[str, str]] = {
    "empty": ("", "needs a table [[forward]]"),
    "no list": ("[forward]\n" + GOOD, "needs a table [[forward]]"),
    "no table": ("forward = [1]\n", "needs a table [[forward]]"),
    "outside": ("listen = 0\n[[forward]]\n" + GOOD, "'listen' is outside of a [[forward]] table"),
    "no listen": ('[[forward]]\nurl = "http://h/"\n', "[[forward]] 1 needs listen"),
    "no url": ("[[forward]]\nlisten = 0\n", "[[forward]] 1 needs url"),
    "second": (f"[[forward]]\n{GOOD}[[forward]]\nlisten = 0\n", "[[forward]] 2 needs url"),
    "no token": ('[[forward]]\nlisten = 0\nurl = "http://h/"\n', "[[forward]] 1: a TOKEN is needed"),
    "unknown": (f"[[forward]]\n{GOOD}secret = 1\n", "no option 'secret'"),
    "config": (f'[[forward]]\n{GOOD}config = "x"\n', "no option 'config'"),
    "help": (f"[[forward]]\n{GOOD}help = true\n", "no option 'help'"),
    "flag": (f'[[forward]]\n{GOOD}insecure = "yes"\n', "insecure must be true or false"),
    "no flag": (f"[[forward]]\n{GOOD}user = true\n", "user has a value of the wrong type"),
    "type": (f"[[forward]]\n{GOOD}header = [{{ a = 1 }}]\n", "header has a value of the wrong type"),
    "url type": ('[[forward]]\nlisten = 0\nurl = 1\ntoken = "t"', "url has a value of the wrong type"),
    "listen type": ('[[forward]]\nlisten = true\nurl = "http://h/"', "listen has a value of the wrong"),
    "value": (f"[[forward]]\n{GOOD}timeout = 0\n", "[[forward]] 1: --timeout needs a number"),
    "no option": (
        '[[forward]]\nlisten = "--insecure"\nurl = "http://h/"\ntoken = "t"\n',
        "endpoint string",
    ),
    "no TOML": ("[[forward", "--config"),
}


@pytest.mark.parametrize(("content", "named"), WRONG.values(), ids=WRONG)
def test_wrong_tables(content: str, named: str, tmp_path: Path) -> None:
    """A file that is wrong is a usage error: exit code 2, and one line that names the table."""
    config = tmp_path / "forwards.toml"
    config.write_text(content)
    assert named in fails(2, "forward", "--config", str(config))


@pytest.mark.parametrize("mode", [0o600, 0o644], ids=oct)
@pytest.mark.parametrize(
    "secret", ['user = "a:b"', 'header = ["X: 1", "authorization: b"]', 'user = "a"']
)
def test_readable_config(secret: str, mode: int, tmp_path: Path) -> None:
    """A file with a password that all users can read is used, and one line says that they can."""
    config = tmp_path / "forwards.toml"
    config.touch(mode)
    config.chmod(mode)
    config.write_text(f"[[forward]]\n{GOOD}{secret}\n[[forward]]\n{GOOD}timeout = 0\n")
    done = run("forward", "--config", str(config), start_new_session=True)
    warning = f"warning: --config {config}: all users of this machine can read this file".encode()
    assert done.stderr.count(warning) == (mode == 0o644 and secret != 'user = "a"')
    assert done.returncode == 2


def test_wrong_config(tmp_path: Path) -> None:
    """A file that is not there, and arguments beside it, are usage errors."""
    config = str(tmp_path / "none.toml")
    assert "No such file" in fails(2, "forward", "--config", config)
    assert "the file has ENDPOINT" in fails(2, "forward", "--config", config, LOCAL, "ws://h/")
    assert "ENDPOINT, URL and TOKEN" in fails(2, "forward")
