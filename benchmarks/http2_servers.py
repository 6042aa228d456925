"""
The HTTP/2 servers that ``http2.py`` compares: each is one process on one core, with TLS and ALPN. It
answers ``/`` with a short page and ``/big`` with a megabyte, and writes no access log.

A :class:`Server` knows what such a process costs.
"""

from __future__ import annotations

import datetime
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from switching import HOST, Echo
from twisted.internet.protocol import Factory
from twisted.internet.ssl import PrivateCertificate
from twisted.logger import globalLogBeginner
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from upgrade_switch import UpgradeResource, UpgradeSite

__all__ = ["KINDS", "MEGABYTE", "OURS", "Server", "make_certificate", "why_missing"]

# What ours is called in the table.
OURS = "ours"
KINDS = ("twisted", "hypercorn", "node", OURS)

PAGE = b"<!DOCTYPE html><title>A page</title><p>" + b"Some words. " * 8
MEGABYTE = 1_000_000

_NODE = """
const [port, certificate] = process.argv.slice(2);
const pem = require('fs').readFileSync(certificate);
const page = Buffer.from(%(page)r), big = Buffer.alloc(%(megabyte)d, 'x');
const server = require('http2').createSecureServer({key: pem, cert: pem}, (request, answer) => {
  const body = request.url === '/big' ? big : page;
  answer.writeHead(200, {'content-type': 'text/html', 'content-length': body.length});
  answer.end(body);
});
server.listen(+port, '%(host)s');
"""


def make_certificate(folder: Path) -> Path:
    """A certificate of its own, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    coding = serialization.Encoding.PEM
    private = key.private_bytes(coding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(private + certificate.public_bytes(coding))
    return path


def why_missing(kind: str) -> str | None:
    """Why a server cannot be started here; None if it can."""
    if kind == "node" and shutil.which("node") is None:
        return "there is no node"
    if kind == "hypercorn" and find_spec("hypercorn") is None:
        return "pip install hypercorn"
    return None


class Server:
    """
    A server that runs.

    :ivar port: where it listens.
    """

    def __init__(self, kind: str, port: int, pid: int) -> None:
        self.kind = kind
        self.port = port
        self._pid = pid

    @property
    def cpu(self) -> float:
        """How many seconds of CPU time it has taken so far, user's and system's."""
        # The clock of another process: clock_getcpuclockid(3).
        return time.clock_gettime(~self._pid << 3 | 2)

    @property
    def memory(self) -> int:
        """Its resident bytes."""
        pages = int(Path(f"/proc/{self._pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    @classmethod
    @contextmanager
    def running(cls, kind: str, certificate: Path, core: int) -> Iterator[Server]:
        """
        :param core: where it runs.
        """
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, __file__, kind]
        if kind == "node":
            script = certificate.with_name("server.js")
            script.write_text(_NODE % {"page": PAGE.decode(), "megabyte": MEGABYTE, "host": HOST})
            command = ["node", str(script)]
        with subprocess.Popen(
            [*command, str(port), str(certificate)],
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        ) as process:
            try:
                _wait_for(port, process)
                yield cls(kind, port, process.pid)
            finally:
                process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if process.poll() is not None:
            break
        try:
            socket.create_connection((HOST, port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


# The servers in Python.


def _tree() -> Resource:
    root = Resource()
    root.putChild(b"", Data(PAGE, "text/html"))
    root.putChild(b"big", Data(b"x" * MEGABYTE, "text/html"))
    return root


def _our_site() -> Site:
    root = _tree()
    echo: Factory[Any] = Factory.forProtocol(Echo)
    root.putChild(b"echo", UpgradeResource({"echo": echo}))
    return UpgradeSite(root, http2_connect=True)


def _serve_site(site: Site, port: int, certificate: str) -> None:
    site.log = lambda request: None  # type: ignore[method-assign]
    reactor: Any = import_module("twisted.internet.reactor")
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)
    context = PrivateCertificate.loadPEM(Path(certificate).read_bytes()).options()
    reactor.listenSSL(port, site, context, backlog=128, interface=HOST)
    reactor.run()


async def _application(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """The same for ASGI."""
    body = _BIG if scope["path"] == "/big" else PAGE
    length = b"%d" % len(body)
    headers = [(b"content-type", b"text/html"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_BIG = b"x" * MEGABYTE


def _serve_hypercorn(port: int, certificate: str) -> None:
    config = import_module("hypercorn.config").Config()
    config.bind = [f"{HOST}:{port}"]
    config.certfile = config.keyfile = certificate
    config.errorlog = None
    serve = import_module("hypercorn.asyncio").serve
    import_module("asyncio").run(serve(_application, config, mode="asgi"))


def _serve(kind: str, port: int, certificate: str) -> None:
    if kind == "hypercorn":
        _serve_hypercorn(port, certificate)
    else:
        _serve_site(_our_site() if kind == OURS else Site(_tree()), port, certificate)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
