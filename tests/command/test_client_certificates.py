"""
``serve --client-ca``, and ``--cert`` and ``--key`` of ``connect`` and ``forward``: clients that show a
certificate.
"""

from __future__ import annotations

import datetime
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from tests.kit.certificate import CERTIFICATE_PEM, KEY_PEM
from tests.kit.commands import LOCAL, Process, fails, listening, read_until, run
from tests.kit.forwarding import Answering, connected, logged
from tests.kit.programs import PATIENCE


class Issued:
    """A certificate, its key, and who has issued it."""

    def __init__(
        self, name: str, issuer: Issued | None = None, is_authority: bool = False, key: Any = None
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name if issuer is None else issuer.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1))
            .not_valid_after(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .sign(self.key if issuer is None else issuer.key, hashes.SHA256())
        )
        self.pem = self.certificate.public_bytes(Encoding.PEM)
        self.key_pem = self.key_with(NoEncryption())

    def key_with(self, encryption: Any) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys."""
    root, other = Issued("root", is_authority=True), Issued("other", is_authority=True)
    between = Issued("between", root, is_authority=True)
    ada, eve = Issued("Ada, Countess of Lovelace", between), Issued("Eve", other)
    files = {
        "server.pem": CERTIFICATE_PEM,
        "server.key": KEY_PEM,
        "root.pem": root.pem,
        "ada.pem": ada.pem + between.pem,
        "ada.key": ada.key_pem,
        "both.pem": ada.key_pem + ada.pem + between.pem,
        "alone.pem": ada.pem,
        "eve.pem": eve.pem,
        "eve.key": eve.key_pem,
        "locked.key": ada.key_with(BestAvailableEncryption(b"secret")),
    }
    path = tmp_path_factory.mktemp("certificates")
    for name, content in files.items():
        (path / name).write_bytes(content)
        (path / name).chmod(0o600)
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Any]:
    """A server that asks for certificates; what it says hello to has come through its tunnel."""
    listen = f"ssl:0:interface=127.0.0.1:privateKey={folder}/server.key:certKey={folder}/server.pem"
    with Answering(lambda client: client.sendall(b"hello")) as port:
        to = f"tcp:127.0.0.1:{port}"
        words = [
            "--listen",
            listen,
            "--client-ca",
            f"{folder}/root.pem",
            "--http2-connect",
            "--log-format",
            "json",
        ]
        tunnels = ["--tunnel", f"/t t {to}", "--tunnel", f"/ws websocket {to}", "--preface", f"HI {to}"]
        with Process("serve", *words, *tunnels, stdin=None, stdout=None) as process:
            found: Any = process
            found.port = int(process.says().rstrip("/").rpartition(":")[2])
            yield process
            process.terminate()
            process.ends()


ADA = "CN=Ada\\, Countess of Lovelace"


def next_user(server: Any) -> object:
    """The user of the next connection that is switched, as the log has it."""
    while True:
        line = logged(server)
        assert line
        event = json.loads(line)
        if " switched " in event["log_format"]:
            return event["user"]


ASK = [["https", "/t", "t"], ["wss", "/ws"], ["https", "/t", "t", "--http2"]]


@pytest.mark.parametrize("ask", ASK, ids=" ".join)
@pytest.mark.parametrize("files", [["ada.pem", "ada.key"], ["both.pem"]], ids=" ".join)
@pytest.mark.parametrize("trust", ["--ca", "--insecure"])
def test_connect(server: Any, folder: Path, ask: list[str], files: list[str], trust: str) -> None:
    """A client whose certificate the server's authority has vouched for gets in: it is the user."""
    scheme, path, *token = ask
    options = ["--ca", f"{folder}/server.pem"] if trust == "--ca" else ["--insecure"]
    for option, file in zip(["--cert", "--key"], files, strict=False):
        options += [option, f"{folder}/{file}"]
    done = run("connect", f"{scheme}://127.0.0.1:{server.port}{path}", *token, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
    assert next_user(server) == ADA


def test_preface(server: Any, folder: Path) -> None:
    """A connection that begins with a preface has a user, too."""
    context = ssl.create_default_context(cafile=folder / "server.pem")
    context.load_cert_chain(folder / "ada.pem", folder / "ada.key")
    with (
        socket.create_connection(("127.0.0.1", server.port), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(b"HI")
        assert client.recv(5) == b"hello"
    assert next_user(server) == ADA


def test_forward(server: Any, folder: Path) -> None:
    """``forward`` shows it with each connection."""
    words = ["--cert", f"{folder}/both.pem", "--ca", f"{folder}/server.pem"]
    url = f"https://127.0.0.1:{server.port}/t"
    with Process("forward", "0", url, "t", *words, stdin=None, stdout=None) as process:
        found: Any = process
        found.address = ("127.0.0.1", int(process.says().rpartition(":")[2]))
        for _ in range(2):
            with connected(found) as client:
                assert client.recv(5) == b"hello"
            assert next_user(server) == ADA
        process.terminate()
        process.ends()


NOT_LET_IN = {
    "none": ([], "the server requires a certificate (--cert)"),
    "of somebody else's": (["--cert", "eve.pem", "--key", "eve.key"], "the TLS handshake failed"),
    "without its chain": (["--cert", "alone.pem", "--key", "ada.key"], "the TLS handshake failed"),
}


@pytest.mark.parametrize(("options", "named"), NOT_LET_IN.values(), ids=NOT_LET_IN)
@pytest.mark.parametrize("ask", ASK, ids=" ".join)
def test_not_let_in(server: Any, folder: Path, ask: list[str], options: list[str], named: str) -> None:
    """Without such a certificate, a client does not get through the handshake: exit code 1."""
    scheme, path, *token = ask
    told = [one if one.startswith("--") else f"{folder}/{one}" for one in options]
    url = f"{scheme}://127.0.0.1:{server.port}{path}"
    line = fails(1, "connect", "--ca", f"{folder}/server.pem", *told, url, *token)
    assert named in line


def test_not_for_the_proxy(folder: Path) -> None:
    """A proxy on the way that asks for a certificate does not get the one that is for the server."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "root.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    shown = []

    def proxy(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secured:
            assert read_until(secured, b"\r\n\r\n").startswith(b"CONNECT ")
            shown.append(secured.getpeercert())
            secured.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with listening(proxy) as port:
        words = ["--cert", f"{folder}/both.pem", "--insecure", "--via", f"https://127.0.0.1:{port}"]
        fails(3, "connect", "https://example.com/", "t", *words)
    assert shown == [None]


CLIENTS = {
    "no file": (["--cert", "/nowhere"], "--cert /nowhere: No such file"),
    "no key file": (["--cert", "ada.pem", "--key", "/nowhere"], "--key /nowhere: No such file"),
    "no cert": (["--key", "ada.key"], "--key needs --cert"),
    "a key": (["--cert", "ada.key"], "no certificate in PEM"),
    "no key in it": (["--cert", "ada.pem"], "ada.pem: no private key in PEM"),
    "no key": (["--cert", "ada.pem", "--key", "root.pem"], "root.pem: no private key in PEM"),
    "another's": (["--cert", "ada.pem", "--key", "eve.key"], "the key does not belong to"),
    "locked": (["--cert", "ada.pem", "--key", "locked.key"], "locked.key: the key is encrypted"),
    "empty": (["--cert", "/dev/null"], "no certificate in PEM"),
}


@pytest.mark.parametrize(("options", "named"), CLIENTS.values(), ids=CLIENTS)
@pytest.mark.parametrize("command", [["connect"], ["forward", LOCAL]], ids=" ".join)
def test_misuse(folder: Path, command: list[str], options: list[str], named: str) -> None:
    """What is no certificate with its key is a usage error: exit code 2, and one line."""
    told = [f"{folder}/{one}" if one[0] not in "-/" else one for one in options]
    assert named in fails(2, *command, "https://127.0.0.1:1/", "t", *told)


def test_misuse_of_the_url(folder: Path) -> None:
    """A certificate is for TLS."""
    line = fails(2, "connect", "http://h/", "t", "--cert", f"{folder}/both.pem")
    assert "--cert is for https and wss URLs only" in line


def test_open_key(folder: Path, tmp_path: Path) -> None:
    """A key that all users can read is used, with a warning; a certificate may be read by all."""
    key, cert = tmp_path / "key", tmp_path / "cert"
    key.write_bytes((folder / "ada.key").read_bytes())
    cert.write_bytes((folder / "ada.pem").read_bytes())
    for path in (key, cert):
        path.chmod(0o644)
    words = ["--cert", str(cert), "--key", str(key)]
    with Process("connect", "https://127.0.0.1:1/", "t", *words, stdin=None) as process:
        assert process.says().startswith(f"warning: --key {key}: all users")
        code, _, said = process.everything()
    assert code == 1
    assert b"warning" not in said


def test_weak_key(tmp_path: Path) -> None:
    """A certificate that OpenSSL does not use, since its key is too short, is a usage error."""
    weak = Issued("weak", key=rsa.generate_private_key(65537, 1024))
    path = tmp_path / "weak.pem"
    path.touch(0o600)
    path.write_bytes(weak.pem + weak.key_pem)
    line = fails(2, "connect", "https://127.0.0.1:1/", "t", "--cert", str(path))
    assert f"--cert {path}: OpenSSL refuses it: " in line
    assert "too small" in line


SERVERS = {
    "default": ([], "not for 'tcp:8080"),
    "tcp": (["--listen", LOCAL], "not for 'tcp:0"),
    "one of two": (["--listen", "SSL", "--listen", LOCAL], "not for 'tcp:0"),
    "wrapped": (["--listen", "haproxy:SSL"], "not for 'haproxy:ssl:"),
    "unix": (["--listen", "unix:/nowhere/x"], "not for 'unix:"),
}


@pytest.mark.parametrize(("listen", "named"), SERVERS.values(), ids=SERVERS)
def test_misuse_of_endpoints(folder: Path, listen: list[str], named: str) -> None:
    """An endpoint of another kind would let everybody in: exit code 2, and one line."""
    there = f"ssl:0:interface=127.0.0.1:privateKey={folder}/server.key:certKey={folder}/server.pem"
    told = [one.replace("SSL", there) for one in listen]
    line = fails(2, "serve", "--client-ca", f"{folder}/root.pem", *told)
    assert "--client-ca is for ssl: endpoints only, " in line
    assert named in line


@pytest.mark.parametrize(
    ("file", "named"), [("/nowhere", "No such file"), ("/dev/null", "no certificates in PEM")]
)
def test_no_authorities(file: str, named: str) -> None:
    """A file without certificates is a usage error: exit code 2, and one line."""
    assert f"--client-ca {file}: {named}" in fails(2, "serve", "--client-ca", file)
