"""HTTP/2 without TLS with clients that others have written: curl and nghttp."""

from __future__ import annotations

import random
from io import BytesIO
from pathlib import Path
from typing import Any

import pycurl
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from twisted.web.resource import Resource

from tests.kit.asking import Accepting
from tests.kit.commands import output_of
from tests.kit.foreign import needs
from tests.kit.h2client import h2c_site
from tests.kit.harness import patient

LARGE = random.Random(5).randbytes(1_000_000)

SMALL = b"a=b&c=d"


class Echoing(Resource):
    """Answers with what it was sent."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        request.setHeader(b"x-protocol", request.clientproto)
        body: bytes = request.content.read()
        return body or b"nothing"


class LargePage(Resource):
    """An answer larger than any window that HTTP/2 begins with."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return LARGE


curl, nghttp, h2load = needs("curl"), needs("nghttp"), needs("h2load")


@pytest.fixture
def serve(listen: Any) -> Any:
    """A listening site with h2c, and an echo at ``/echo``."""

    async def start(**kwargs: Any) -> Any:
        site = h2c_site({"echo": Accepting()}, **kwargs)
        site.resource.putChild(b"echo", Echoing())
        return await listen("tcp", site)

    return start


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


# curl.

#: How curl is told which way in to take, and the status codes that the log then has of one request.
WAYS = {"--http2": [101, 200], "--http2-prior-knowledge": [200]}

SAY = ("-sS", "--max-time", "20", "-w", "|%{http_version} %{http_code} %{num_connects}|")


def codes(listening: Any) -> list[int]:
    return [code for code, _ in listening.site.lines]


@curl
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ([], b"nothing"),
        (["-d", SMALL.decode()], SMALL),
        (["-X", "PUT", "-d", SMALL.decode()], SMALL),
        (["--data-binary", "@LARGE"], LARGE),
        (["--data-binary", "@LARGE", "-H", "Transfer-Encoding: chunked"], LARGE),
        (["--data-binary", "@LARGE", "-H", "Expect: 100-continue"], LARGE),
        (["-T", "LARGE"], LARGE),
        (["-I"], None),
    ],
    ids=["GET", "POST", "PUT", "large", "chunked", "Expect", "upload", "HEAD"],
)
@pytest_twisted.ensureDeferred
async def test_curl(
    serve: Any, large: Path, way: str, options: list[str], answer: bytes | None
) -> None:
    """curl gets the answer to whatever it asks in HTTP/2."""
    listening = await serve()
    options = [option.replace("LARGE", str(large)) for option in options]
    said = await output_of("curl", way, *SAY, *options, f"{listening.url}/echo")
    if answer is None:
        assert b"x-protocol: HTTP/2\r\n" in said
        assert said.endswith(b"|2 200 1|")
    else:
        assert said == answer + b"|2 200 1|"
    assert codes(listening) == WAYS[way]


def ask_with_libcurl(url: str, version: int) -> list[tuple[int, int, int, bytes]]:
    """Of several requests, one after the other: version, status, new connections, content."""
    client = pycurl.Curl()
    client.setopt(pycurl.HTTP_VERSION, version)
    client.setopt(pycurl.TIMEOUT, 20)
    answers = []
    for body in (None, SMALL, None, LARGE):
        content = BytesIO()
        client.setopt(pycurl.URL, f"{url}/echo")
        client.setopt(pycurl.WRITEDATA, content)
        if body is None:
            client.setopt(pycurl.HTTPGET, True)
        else:
            client.setopt(pycurl.POSTFIELDS, body)
        client.perform()
        told = (pycurl.INFO_HTTP_VERSION, pycurl.RESPONSE_CODE, pycurl.NUM_CONNECTS)
        answers.append((*map(client.getinfo, told), content.getvalue()))
    client.close()
    return answers


@pytest.mark.parametrize(
    ("version", "logged"),
    [
        (pycurl.CURL_HTTP_VERSION_2_0, [101, 200, 200, 200, 200]),
        (pycurl.CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE, [200, 200, 200, 200]),
    ],
    ids=WAYS,
)
@pytest_twisted.ensureDeferred
async def test_libcurl_on_one_connection(serve: Any, version: int, logged: list[int]) -> None:
    """curl's library, as new as pycurl brings it, gets and posts on one connection, either way."""
    listening = await serve()
    answers = await deferToThread(ask_with_libcurl, listening.url, version)
    assert [answer[:3] for answer in answers] == [(3, 200, 1), (3, 200, 0), (3, 200, 0), (3, 200, 0)]
    assert [answer[3] for answer in answers] == [b"nothing", SMALL, b"nothing", LARGE]
    assert codes(listening) == logged


# With prior knowledge the program curl 7.88 cannot use a connection twice, whoever the server is.


@curl
@pytest_twisted.ensureDeferred
async def test_curl_on_one_connection(serve: Any) -> None:
    """Further URLs are asked for on the same connection."""
    listening = await serve()
    words: list[str] = []
    for name in ("echo", "page", "missing", "u", "echo"):
        words += ["-o", "/dev/null", f"{listening.url}/{name}"]
    said = await output_of("curl", "--http2", *SAY, *words)
    assert said == b"|2 200 1||2 200 0||2 404 0||2 426 0||2 200 0|"
    assert codes(listening) == [101, 200, 200, 404, 426, 200]


@curl
@pytest_twisted.ensureDeferred
async def test_curl_in_parallel(serve: Any) -> None:
    """Transfers at the same time are all answered."""
    listening = await serve()
    await output_of("curl", "--http2", "-sS", "-Z", "--max-time", "20", f"{listening.url}/page?[1-30]")
    assert codes(listening).count(200) == 30
    assert set(codes(listening)) <= {101, 200}


@curl
@pytest_twisted.ensureDeferred
async def test_curl_leaves_nothing(serve: Any) -> None:
    """When curl has gone, nothing is switched."""
    listening = await serve()
    for way in WAYS:
        await output_of("curl", way, *SAY, f"{listening.url}/echo")
        await patient(listening.site.switched.when_empty())


@curl
@pytest_twisted.ensureDeferred
async def test_curl_when_full(serve: Any) -> None:
    """Where h2c is ignored, curl --http2 is content with HTTP/1.1."""
    listening = await serve(max_switched=0)
    said = await output_of("curl", "--http2", *SAY, "-d", "a=b", f"{listening.url}/echo")
    assert said == b"a=b|1.1 200 1|"


# nghttp.

NGHTTP = ("nghttp", "--timeout=20")


@nghttp
@pytest_twisted.ensureDeferred
async def test_nghttp(serve: Any) -> None:
    """nghttp -u upgrades, and has its answer on stream 1."""
    listening = await serve()
    said = await output_of(*NGHTTP, "-u", "-v", f"{listening.url}/echo")
    assert b"HTTP Upgrade success" in said
    assert b"(stream_id=1) :status: 200" in said
    assert b"nothing" in said
    assert codes(listening) == [101, 200]


@nghttp
@pytest_twisted.ensureDeferred
async def test_nghttp_upload(serve: Any, large: Path) -> None:
    """nghttp -u asks OPTIONS * first when it has a body, which it then sends in HTTP/2."""
    listening = await serve()
    said = await output_of(*NGHTTP, "-u", "-v", "-d", str(large), f"{listening.url}/echo")
    assert b"HTTP Upgrade success" in said
    assert said.count(b"END_STREAM") >= 2
    assert listening.site.lines == [(101, b"*"), (200, b"*"), (200, b"/echo")]


@nghttp
@pytest.mark.parametrize("way", [["-u"], []], ids=["upgrade", "knowledge"])
@pytest_twisted.ensureDeferred
async def test_nghttp_many_streams(serve: Any, way: list[str]) -> None:
    """Many streams at the same time are all answered."""
    listening = await serve()
    await output_of(*NGHTTP, *way, "-n", "-m", "90", f"{listening.url}/page")
    assert codes(listening).count(200) == 90
    assert codes(listening).count(101) == len(way)


@nghttp
@pytest.mark.parametrize("way", [["-u"], []], ids=["upgrade", "knowledge"])
@pytest_twisted.ensureDeferred
async def test_nghttp_small_window(serve: Any, large: Path, way: list[str]) -> None:
    """With small windows a large answer comes whole."""
    listening = await serve()
    listening.site.resource.putChild(b"large", LargePage())
    said = await output_of(*NGHTTP, *way, "-w", "10", "-W", "10", f"{listening.url}/large")
    assert said == LARGE


@h2load
@pytest_twisted.ensureDeferred
async def test_h2load(serve: Any) -> None:
    """Requests on several connections, many at a time, all succeed with prior knowledge."""
    listening = await serve()
    load = ("-n", "200", "-c", "4", "-m", "25", "-T", "20")
    said = await output_of("h2load", *load, f"{listening.url}/page")
    assert b"200 total, 200 started, 200 done, 200 succeeded, 0 failed" in said
    assert codes(listening) == [200] * 200
    await patient(listening.site.switched.when_empty())
