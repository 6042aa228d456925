"""HTTP/2 over TLS with clients that others have written: curl, nghttp, h2load, Node, httpx."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.kit import ROOT
from tests.kit.back_ends.running import LARGE_FILE
from tests.kit.certificate import CERTIFICATE_PEM
from tests.kit.commands import PATIENCE, output_of
from tests.kit.foreign import needs
from tests.kit.h2site import PeersSite, digest_of
from tests.kit.harness import eventually, patient, turns

curl, nghttp, h2load, node = needs("curl"), needs("nghttp"), needs("h2load"), needs("node")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a large file, and with the certificate that clients have to trust."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "large").write_bytes(LARGE_FILE)
    (folder / "authority.pem").write_bytes(CERTIFICATE_PEM)
    return folder


@pytest.fixture
def serve(listen: Any) -> Any:
    """``await serve()``: such a site, listening with TLS."""

    async def start(**kwargs: Any) -> Any:
        return await listen("tls", PeersSite(**kwargs))

    return start


# curl.

SAY = ("-w", "|%{http_version} %{http_code}|")


def curls(files: Path, *arguments: str) -> Any:
    """What curl writes, which must not fail."""
    trusting = ["--cacert", str(files / "authority.pem"), "--noproxy", "*"]
    return output_of("curl", "-sS", "--http2", "--max-time", str(PATIENCE), *trusting, *arguments)


@curl
@pytest.mark.parametrize(
    ("options", "method"),
    [
        (["--data-binary", "@LARGE"], b"POST"),
        (["--data-binary", "@LARGE", "-H", "Content-Length:"], b"POST"),
        (["-T", "LARGE"], b"PUT"),
        (["-T", "LARGE", "-H", "Expect: 100-continue", "--expect100-timeout", "60"], b"PUT"),
    ],
    ids=["POST", "no length", "PUT", "Expect"],
)
@pytest_twisted.ensureDeferred
async def test_curl_uploads(serve: Any, files: Path, options: list[str], method: bytes) -> None:
    """What curl uploads arrives whole."""
    listening = await serve()
    options = [option.replace("LARGE", str(files / "large")) for option in options]
    said = await curls(files, *SAY, *options, f"{listening.url}/digest")
    assert said == digest_of(method, LARGE_FILE) + b"|2 200|"


@curl
@pytest_twisted.ensureDeferred
async def test_curl_downloads(serve: Any, files: Path) -> None:
    """What curl downloads arrives whole, several at a time; a HEAD has a head alone."""
    listening = await serve()
    url = f"{listening.url}/large"
    assert await curls(files, *SAY, url) == LARGE_FILE + b"|2 200|"
    said = await curls(files, "--parallel", "--no-progress-meter", *[url] * 4)
    assert len(said) == 4 * len(LARGE_FILE)
    head = (await curls(files, *SAY, "-I", url)).lower()
    assert b"content-length: %d\r\n" % len(LARGE_FILE) in head
    assert head.endswith(b"\r\n\r\n|2 200|")
    assert b"connection:" not in head


# nghttp.


@nghttp
@pytest_twisted.ensureDeferred
async def test_nghttp(serve: Any, files: Path) -> None:
    """nghttp uploads, downloads with small windows, sends trailers, and asks for a head."""
    listening = await serve()
    run = ("nghttp", "--no-verify-peer", f"--timeout={PATIENCE}")
    url = f"{listening.url}/digest"
    large = str(files / "large")
    assert await output_of(*run, "-d", large, url) == digest_of(b"POST", LARGE_FILE)
    said = await output_of(*run, "-d", large, "--trailer", "x-sum: 1", url)
    assert said == digest_of(b"POST", LARGE_FILE)
    said = await output_of(*run, "--expect-continue", "-d", large, url)
    assert said == digest_of(b"POST", LARGE_FILE)
    said = await output_of(*run, "-w", "12", "-W", "12", f"{listening.url}/large")
    assert said == LARGE_FILE
    said = await output_of(*run, "-v", "-H", ":method: HEAD", f"{listening.url}/large")
    assert b":status: 200" in said
    assert b"recv DATA" not in said
    assert {line[1] for line in listening.site.asked} == {b"HTTP/2"}


# h2load.


@h2load
@pytest_twisted.ensureDeferred
async def test_h2load(serve: Any, files: Path) -> None:
    """Many requests at a time on several connections all succeed: pages, large answers, uploads."""
    listening = await serve()
    for count, path, more in (
        (600, "page", ()),
        (20, "large", ()),
        (20, "digest", ("-d", str(files / "large"))),
    ):
        load = ("-n", str(count), "-c", "4", "-m", "50", "-T", str(PATIENCE), *more)
        said = await output_of("h2load", *load, f"{listening.url}/{path}")
        done = f"{count} total, {count} started, {count} done, {count} succeeded, 0 failed, 0 errored"
        assert done.encode() in said, said
    await eventually(lambda: not listening.site.http2_connections)


# Node.


async def node_tells(files: Path, listening: Any, mode: str, count: int = 1) -> Any:
    """What the client of Node's http2 has seen."""
    options = {"url": listening.url, "mode": mode, "count": count}
    options["authority"] = str(files / "authority.pem")
    program = str(ROOT / "tests" / "kit" / "node" / "h2client.cjs")
    return json.loads(await output_of("node", program, json.dumps(options)))


@node
@pytest.mark.parametrize("mode", ["stays", "closes"])
@pytest_twisted.ensureDeferred
async def test_node(serve: Any, files: Path, mode: str) -> None:
    """Node's streams of a token of one's own echo, also when it has closed the session meanwhile."""
    listening = await serve()
    told = await node_tells(files, listening, mode, 20)
    page = {"page": "page"} if mode == "stays" else {}
    assert told == {"enabled": True, "statuses": [200], "right": 20, "closed": True, **page}
    await patient(listening.site.switched.when_empty())
    assert {target.reason.type.__name__ for target in listening.site.targets} == {"ConnectionDone"}


@node
@pytest_twisted.ensureDeferred
async def test_node_is_declined(serve: Any, files: Path) -> None:
    """Behind a 501 the stream is over for Node, which keeps its side open."""
    told = await node_tells(files, await serve(), "declined")
    assert told == {"enabled": True, "status": 501, "code": 0, "closed": True}


# httpx.


@pytest_twisted.ensureDeferred
async def test_httpx_through_a_drain(serve: Any) -> None:
    """An answer under way survives ``site.drain``, though httpx gives up at a GOAWAY."""
    listening = await serve()
    site = listening.site
    context = ssl.create_default_context(cadata=CERTIFICATE_PEM.decode())

    def ask() -> tuple[str, str, str]:
        with httpx.Client(http2=True, verify=context, timeout=PATIENCE, trust_env=False) as client:
            first = client.get(f"{listening.url}/page")
            later = client.get(f"{listening.url}/later")
            last = client.get(f"{listening.url}/page")
            return first.http_version, later.text, last.text

    asking = deferToThread(ask)
    await site.later.waiters.until(lambda: site.later.requests)
    await patient(site.drain(10))
    await turns()
    (request,) = site.later.requests
    request.write(b"and ")
    await turns()
    request.write(b"ended")
    request.finish()
    assert await patient(asking) == ("HTTP/2", "begun and ended", "page")
