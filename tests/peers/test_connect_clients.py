"""CONNECT with clients that others have written, through tunnels to another site."""

from __future__ import annotations

import http.client
import random
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource
from twisted.web.static import File

from tests.kit.certificate import CERTIFICATE_PEM
from tests.kit.commands import PATIENCE, output_of
from tests.kit.foreign import needs
from tests.kit.harness import WatchedSite, patient, reactor
from upgrade_switch.protocols import Destinations, connect_to, tunnel

LARGE = random.Random(7).randbytes(3_000_000)

curl = needs("curl")


class Far(Resource):
    """What is behind the tunnel: a large page, and what it was sent."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return LARGE

    def render_POST(self, request: Any) -> bytes:
        body: bytes = request.content.read()
        return body


@pytest.fixture
def proxy(listen: Any) -> Any:
    """A far site, and one in front of it that lets CONNECTs through to it, and to nobody else."""

    async def start(kind: str, behind: Resource | None = None) -> tuple[Any, Any]:
        far = await listen(kind, WatchedSite(behind or Far()))
        allowed = Destinations(f"localhost:{far.port.getHost().port}")
        connect = connect_to(allowed, reactor)
        return far, await listen("tcp", WatchedSite(Resource(), connect=connect))

    return start


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    path.write_bytes(CERTIFICATE_PEM)
    return path


@curl
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.parametrize("version", ["--proxytunnel", "--proxy1.0"])
@pytest_twisted.ensureDeferred
async def test_curl(proxy: Any, authority: Path, kind: str, version: str) -> None:
    """curl gets a large page and posts it, through a tunnel, with and without TLS inside."""
    far, near = await proxy(kind)
    sent = authority.with_name("sent")
    sent.write_bytes(LARGE)
    here = near.url.removeprefix("http://")
    proxying = [version, here, "--proxytunnel"] if "1.0" in version else [version, "--proxy", here]
    say = ["curl", "-sS", "--max-time", "60", "--cacert", str(authority), "--noproxy", "", *proxying]
    assert await output_of(*say, far.url) == LARGE
    assert await output_of(*say, "--data-binary", f"@{sent}", far.url) == LARGE
    name = b"localhost:%d" % far.port.getHost().port
    assert near.site.lines == [(200, name)] * 2
    assert [code for code, _ in far.site.lines] == [200] * 2
    await patient(near.site.switched.when_empty())


@curl
@pytest_twisted.ensureDeferred
async def test_curl_is_refused(proxy: Any) -> None:
    """curl says what it was answered."""
    _, near = await proxy("tcp")
    command = ["curl", "-sS", "--noproxy", "", "-p", "-x", near.url, "http://elsewhere.example/"]
    done = await deferToThread(subprocess.run, command, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 56
    assert b"403" in done.stderr


@needs("git")
@pytest_twisted.ensureDeferred
async def test_git(proxy: Any, authority: Path, tmp_path: Path) -> None:
    """git clones from an https server through the proxy."""
    served = tmp_path / "served"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(served)]
    served.mkdir()
    for line in ("init -q", "commit -q --allow-empty -m first", "update-server-info"):
        await output_of(*git, *line.split())
    far, near = await proxy("tls", File(str(served / ".git")))
    here = near.url.removeprefix("http://")
    environment = ["env", "no_proxy=", "NO_PROXY=", f"GIT_SSL_CAINFO={authority}"]
    clone = tmp_path / "clone"
    through = ["git", "-c", f"http.proxy=http://{here}", "clone", "-q", far.url, str(clone)]
    await output_of(*environment, *through)
    assert b"first" in await output_of("git", "-C", str(clone), "log")
    assert set(near.site.lines) == {(200, b"localhost:%d" % far.port.getHost().port)}
    await patient(near.site.switched.when_empty())


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_python(proxy: Any, authority: Path, kind: str) -> None:
    """Python's http.client, which sends CONNECT with HTTP/1.0 or HTTP/1.1, keeps its connection."""
    far, near = await proxy(kind)

    def ask() -> list[bytes]:
        port = near.port.getHost().port
        if kind == "tls":
            context = ssl.create_default_context(cafile=str(authority))
            client: Any = http.client.HTTPSConnection(
                "localhost", port, context=context, timeout=PATIENCE
            )
        else:
            client = http.client.HTTPConnection("localhost", port, timeout=PATIENCE)
        client.set_tunnel("localhost", far.port.getHost().port)
        try:
            bodies = []
            for body in (None, b"abc", LARGE):
                client.request("POST" if body else "GET", "/", body)
                bodies.append(client.getresponse().read())
            return bodies
        finally:
            client.close()

    assert await deferToThread(ask) == [LARGE, b"abc", LARGE]
    assert len(near.site.lines) == 1
    await patient(near.site.switched.when_empty())


@pytest_twisted.ensureDeferred
async def test_nobody_there(listen: Any) -> None:
    """Where the authority cannot be connected to, the answer is 502, and the connection is closed."""
    port = reactor.listenTCP(0, WatchedSite(Resource()), interface="127.0.0.1")
    number = port.getHost().port
    await port.stopListening()
    nowhere = tunnel(HostnameEndpoint(reactor, "127.0.0.1", number))
    near = await listen("tcp", WatchedSite(Resource(), connect=nowhere))

    def ask() -> None:
        client = http.client.HTTPConnection("localhost", near.port.getHost().port, timeout=PATIENCE)
        client.set_tunnel("localhost", number)
        with pytest.raises(OSError, match="502"):
            client.connect()

    await deferToThread(ask)
    assert near.site.lines == [(502, b"localhost:%d" % number)]
