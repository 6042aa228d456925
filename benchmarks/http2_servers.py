"""
The HTTP/2 servers that ``http2.py`` compares: each is one process on one core, with TLS and ALPN. It
answers ``/`` with a short page and ``/big`` with a megabyte, and writes no access log.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from peers import Peer
from processes import HOST, Server, listening
from servers import Echo
from twisted.internet.protocol import Factory
from twisted.internet.ssl import PrivateCertificate
from twisted.logger import globalLogBeginner
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from upgrade_switch import UpgradeResource, UpgradeSite

__all__ = ["KINDS", "MEGABYTE", "OURS", "running"]

# What ours is called in the table.
OURS = "ours"
KINDS = {
    peer.name: peer
    for peer in (
        Peer("twisted", "twisted.web's own HTTP/2", "", (), ["Twisted", "h2"]),
        Peer("hypercorn", "hypercorn", "", (), ["hypercorn"]),
        Peer("node", "Node's http2", "", (), runs="node"),
        Peer(OURS, "UpgradeSite", "", (), ["upgrade_switch", "h2"]),
    )
}

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


@contextmanager
def running(kind: str, certificate: Path, core: int) -> Iterator[Server]:
    """One of them, while it runs."""

    def command(port: int) -> list[str]:
        program = [sys.executable, __file__, kind]
        if kind == "node":
            script = certificate.with_name("server.js")
            script.write_text(_NODE % {"page": PAGE.decode(), "megabyte": MEGABYTE, "host": HOST})
            program = ["node", str(script)]
        return [*program, str(port), str(certificate)]

    with listening(kind, command, core) as server:
        yield server


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
