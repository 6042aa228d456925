"""
Clients that others have written, through a proxy: curl, Chromium, Docker; and this package's commands.
"""

from __future__ import annotations

import hashlib
import io
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pycurl
import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from tests.kit.back_ends.fixtures import back_end, in_thread, node, proxies
from tests.kit.back_ends.running import LARGE_FILE
from tests.kit.certificate import CERTIFICATE_PEM
from tests.kit.chatting import chat_site, open_socket
from tests.kit.commands import LOCAL, PATIENCE, output_of, read_all, read_until, run
from tests.kit.engine import EXIT_CODE, Engine
from tests.kit.foreign import find, needs
from tests.kit.forwarding import connected, forwarding
from tests.kit.harness import EchoTarget, WatchedSite, factory_of, patient, site_of
from upgrade_switch.protocols import h2c

__all__ = ["back_end", "node", "proxies"]  # fixtures

curl = needs("curl")


def port_of(proxy: Any) -> int:
    port: int = proxy.port.getHost().port
    return port


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a large file, and with the certificate that clients have to trust."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "large").write_bytes(LARGE_FILE)
    (folder / "authority.pem").write_bytes(CERTIFICATE_PEM)
    return folder


DIGEST = f"{len(LARGE_FILE)} {hashlib.sha256(LARGE_FILE).hexdigest()}".encode()


def curls(files: Path, *arguments: str) -> Any:
    """What curl writes, which must not fail."""
    trusting = ["--cacert", str(files / "authority.pem"), "--noproxy", "*"]
    return output_of("curl", "-sS", "--max-time", str(PATIENCE), *trusting, *arguments)


@curl
@pytest_twisted.ensureDeferred
async def test_curl_expects(back_end: Any, proxies: Any, files: Path) -> None:
    """
    curl, which would not send its content for a minute without it, is told 100 (Continue): for a length
    that is known, and for one that is not.
    """
    proxy = await proxies(back_end.urls["tcp"])
    waiting = ["-H", "Expect: 100-continue", "--expect100-timeout", "60", "-D", "-"]
    file = f"@{files / 'large'}"
    for framed in ([], ["-H", "Transfer-Encoding: chunked"]):
        said = await curls(files, *waiting, *framed, "--data-binary", file, f"{proxy.url}/digest")
        assert re.findall(rb"^HTTP/1.1 (\d+)", said, re.MULTILINE) == [b"100", b"200"], said
        assert said.endswith(b"\r\n\r\n" + DIGEST)


@curl
@pytest_twisted.ensureDeferred
async def test_curl_is_refused(node: Any, proxies: Any, files: Path) -> None:
    """A content that is too long is refused before curl sends it."""
    proxy = await proxies(node.urls["tcp"], max_body=len(LARGE_FILE) - 1)
    waiting = ["-H", "Expect: 100-continue", "--expect100-timeout", "60", "-D", "-", "-o", "/dev/null"]
    sent = ["-w", "%{http_code} %{size_upload}", "--data-binary", f"@{files / 'large'}"]
    said = await curls(files, *waiting, *sent, f"{proxy.url}/digest")
    assert b" 100 " not in said
    assert said.endswith(b"413 0")


@curl
@pytest_twisted.ensureDeferred
async def test_curl_1_0(back_end: Any, proxies: Any, files: Path) -> None:
    """curl with HTTP/1.0 uploads, and downloads what has no length."""
    proxy = await proxies(back_end.urls["tcp"])
    file = f"@{files / 'large'}"
    assert await curls(files, "-0", "--data-binary", file, f"{proxy.url}/digest") == DIGEST
    for path in ("large", "large?chunked"):
        assert await curls(files, "-0", f"{proxy.url}/{path}") == LARGE_FILE


@curl
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix"])
@pytest_twisted.ensureDeferred
async def test_curl_http2(back_end: Any, proxies: Any, files: Path, kind: str) -> None:
    """curl speaks HTTP/2 with the proxy, which speaks HTTP/1.1 with the back end."""
    proxy = await proxies(back_end.urls[kind], "tls")
    file = f"@{files / 'large'}"
    version = ["--http2", "-w", "%{http_version}"]
    assert await curls(files, *version, f"{proxy.url}/page") == b"page2"
    assert await curls(files, *version, f"{proxy.url}/large") == LARGE_FILE + b"2"
    assert await curls(files, *version, f"{proxy.url}/large?chunked") == LARGE_FILE + b"2"
    assert await curls(files, *version, "--data-binary", file, f"{proxy.url}/digest") == DIGEST + b"2"
    # From a pipe: of unknown length.
    chunked = f"cat {files / 'large'} | curl -sS --noproxy '*' --cacert {files / 'authority.pem'}"
    shell = f"{chunked} --http2 -T - {proxy.url}/digest"
    assert await output_of("sh", "-c", shell) == DIGEST
    head = await curls(files, *version, "-H", 'If-None-Match: "1"', "-D", "-", f"{proxy.url}/page")
    assert head.startswith(b"HTTP/2 304"), head


def fetch_in_parallel(files: Path, url: str, count: int) -> tuple[list[bytes], int]:
    """
    What libcurl gets when it asks for a URL several times at once, and how many connections it made.

    That of pycurl: curl 7.88 (Debian 12) has been seen to wait for ever when all streams had ended.
    """
    multi = pycurl.CurlMulti()
    multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
    bodies = [io.BytesIO() for _ in range(count)]
    for body in bodies:
        client = pycurl.Curl()
        client.setopt(pycurl.URL, url)
        client.setopt(pycurl.CAINFO, str(files / "authority.pem"))
        client.setopt(pycurl.NOPROXY, "*")
        client.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        client.setopt(pycurl.PIPEWAIT, True)
        client.setopt(pycurl.TIMEOUT, PATIENCE)
        client.setopt(pycurl.WRITEDATA, body)
        multi.add_handle(client)
    running, done, connections = count, 0, 0
    while done < count:
        multi.select(1.0)
        _, running = multi.perform()
        _, ended, failed = multi.info_read()
        assert not failed, failed
        done += len(ended)
        connections += sum(client.getinfo(pycurl.NUM_CONNECTS) for client in ended)
    assert running == 0
    return [body.getvalue() for body in bodies], connections


@pytest_twisted.ensureDeferred
async def test_curl_in_parallel(back_end: Any, proxies: Any, files: Path) -> None:
    """Several large answers come at the same time on one connection of HTTP/2."""
    proxy = await proxies(back_end.urls["tcp"], "tls")
    got, connections = await deferToThread(fetch_in_parallel, files, f"{proxy.url}/large?chunked", 4)
    assert got == [LARGE_FILE] * 4
    assert connections == 1
    assert proxy.site.lines == [(200, b"/large?chunked")] * 4


@curl
@pytest_twisted.ensureDeferred
async def test_curl_unexpected(node: Any, proxies: Any, files: Path) -> None:
    """If the back end does not want the content, curl hears so, and does not send it."""
    proxy = await proxies(node.urls["tcp"])
    waiting = ["-H", "Expect: 100-continue", "--expect100-timeout", "60", "-o", "/dev/null"]
    sent = ["-w", "%{http_code} %{size_upload}", "-T", str(files / "large")]
    # At a 417, curl asks again, and does not wait.
    said = await curls(files, *waiting, *sent, f"{proxy.url}/expect")
    assert said.split()[0] in (b"404", b"417")


@curl
@pytest_twisted.ensureDeferred
async def test_early_hints(node: Any, proxies: Any, files: Path) -> None:
    """103 (Early Hints) comes in front of the answer; over HTTP/2, the answer comes without."""
    said = await curls(files, "-D", "-", f"{(await proxies(node.urls['tcp'])).url}/hints")
    hints, _, answer = said.partition(b"\r\n\r\n")
    assert hints.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert b"</style.css>; rel=preload; as=style" in hints
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (
        await curls(files, "--http2", f"{(await proxies(node.urls['tcp'], 'tls')).url}/hints")
        == b"page"
    )


@curl
@needs("nghttp")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_h2c(listen: Any, proxies: Any, files: Path, kind: str) -> None:
    """A proxy that is told to pass h2c lets clients speak HTTP/2 with the back end, in a tunnel."""
    site = site_of({"echo": factory_of(EchoTarget)[0]}, upgrades={"h2c": h2c()})
    behind = await listen(kind, site)
    url = f"unix:{behind.port.getHost().name.decode()}" if kind == "unix" else behind.url
    proxy = await proxies(url, tokens=["h2c"])
    page = f"{proxy.url}/page"
    version = ["--http2", "-w", " %{http_version}"]
    assert await curls(files, *version, page) == b"page GET  2"
    assert await curls(files, *version, "-d", "content", page) == b"page POST content 2"
    assert b"HTTP Upgrade success" in await output_of("nghttp", "-u", "-v", page)
    # Unless it is told so, the same request is HTTP/1.1 all the way.
    page = f"{(await proxies(url)).url}/page"
    assert await curls(files, *version, "-d", "content", page) == b"page POST content 1.1"


# Chromium.

SOCKET = """
new Promise((resolve, reject) => {
  const url = location.origin.replace("http", "ws") + "/welcome";
  const got = [], socket = new WebSocket(url, ["a", "b"]);
  socket.binaryType = "arraybuffer";
  socket.onerror = () => reject(new Error("no WebSocket"));
  socket.onmessage = ({data}) => {
    if (typeof data !== "string") got.push([...new Uint8Array(data)]);
    else got.push(data.length > 10 ? data.length : data);
    if (got.length === 1) {
      socket.send("ä€😀");
      socket.send(new Uint8Array([0, 255]));
      socket.send("x".repeat(1000000));
      socket.send("please close");
    }
  };
  socket.onclose = ({code, reason, wasClean}) =>
    resolve([socket.protocol, socket.extensions, got, code, reason, wasClean]);
})
"""

EVENTS = """
(async () => {
  const next = (line) => fetch("/next", {method: "POST", body: line});
  const reader = (await fetch("/events")).body.pipeThrough(new TextDecoderStream()).getReader();
  const got = [];
  for (const line of ["one", "two", "end"]) {
    await next(line);
    let text = "";
    while (!text.endsWith("\\n\\n")) text += (await reader.read()).value;
    got.push(text);
  }
  got.push((await reader.read()).done);
  return got;
})()
"""

UPLOAD = """
(async () => {
  const parts = ["one", "two", "x".repeat(100000)];
  const body = new ReadableStream({
    pull: (to) => parts.length ? to.enqueue(new TextEncoder().encode(parts.shift())) : to.close()
  });
  const response = await fetch("/digest", {method: "POST", body, duplex: "half"});
  return (await response.text()).split(" ")[0];
})()
"""


@needs("chromium")
@pytest_twisted.ensureDeferred
async def test_chromium(browser: Any, back_end: Any, proxies: Any) -> None:
    """In Chromium, a WebSocket and a stream of events come through."""
    proxy = await proxies(back_end.urls["tcp"])
    window = await browser.window()
    await window.go(f"{proxy.url}/page")
    protocol, extensions, got, *closed = await window.run(SOCKET)
    assert (protocol, "permessage-deflate" in extensions) == ("b", True)
    assert got == ["welcome", "ä€😀", [0, 255], 1000000]
    assert closed == [4002, "done", True]
    await in_thread(back_end.closed)
    assert await window.run(EVENTS) == ["data: one\n\n", "data: two\n\n", "data: end\n\n", True]


@needs("chromium")
@pytest_twisted.ensureDeferred
async def test_chromium_http2(browser: Any, back_end: Any, proxies: Any) -> None:
    """
    With TLS, where Chromium speaks HTTP/2 but for its WebSockets, all of it comes through, and an
    upload whose parts are made one by one.
    """
    proxy = await proxies(back_end.urls["tcp"], "tls")
    window = await browser.window()
    await window.call("Security.setIgnoreCertificateErrors", ignore=True)
    await window.go(f"{proxy.url}/page")
    entry = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
    assert await window.run(entry) == "h2"
    assert (await window.run(SOCKET))[0] == "b"
    await in_thread(back_end.closed)
    assert await window.run(EVENTS) == ["data: one\n\n", "data: two\n\n", "data: end\n\n", True]
    assert await window.run(UPLOAD) == "100006"


# The chat, which compares Origin with Host.


@pytest_twisted.ensureDeferred
async def test_chat(listen: Any, proxies: Any) -> None:
    """The users of the example chat, behind the proxy, hear each other, and see who leaves."""
    behind = await listen("tcp", chat_site())
    proxy = await proxies(behind.url)
    anna = await open_socket(f"{proxy.url}/chat/", name="Anna")
    bert = await open_socket(f"{proxy.url}/chat/", name="Bert")
    await anna.until(lambda: anna.names() == ["Anna", "Bert"])
    anna.say("hello")
    await bert.until(lambda: bert.texts() == ["hello"])
    bert.sendClose(1000)
    await anna.until(lambda: anna.names() == ["Anna"])
    drained = behind.site.drain(PATIENCE)
    await anna.is_closed_with(1001)
    await patient(drained)


@needs("chromium")
@pytest_twisted.ensureDeferred
async def test_chat_in_chromium(browser: Any, listen: Any, proxies: Any) -> None:
    """The chat's page works behind the proxy: its WebSocket is of the same origin."""
    behind = await listen("tcp", chat_site())
    proxy = await proxies(behind.url)
    window = await browser.window()
    await window.go(f"{proxy.url}/chat")
    await window.until("document.querySelector('dialog[open]')")
    await window.enter("Anna")
    await window.until("document.querySelector('#state.open')")
    assert window.errors == []


# This package's own commands.


@pytest_twisted.ensureDeferred
async def test_connect(node: Any, proxies: Any) -> None:
    """``upgrade-switch connect`` sends its input through, and gets what comes behind its end."""
    proxy = await proxies(node.urls["tcp"], tokens=["raw"])
    sent = LARGE_FILE[:300_000]
    done = await deferToThread(run, "connect", f"{proxy.url}/", "raw", input=sent)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"early" + sent + b"late"


@pytest_twisted.ensureDeferred
async def test_forward(node: Any, proxies: Any) -> None:
    """What connects to ``upgrade-switch forward`` reaches the back end through the proxy."""
    proxy = await proxies(node.urls["unix"], tokens=["raw"])

    def talk() -> None:
        with (
            forwarding(LOCAL, f"{proxy.url}/", "raw") as process,
            connected(process) as client,
        ):
            client.sendall(b"mine")
            assert read_until(client, b"mine") == b"earlymine"
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"late"

    await in_thread(talk)


# Docker.


@needs("docker")
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_docker(listen: Any, proxies: Any, kind: str) -> None:
    """
    ``docker exec`` through the proxy sends its input, half-closes, and gets the rest and the exit code.
    """
    engine = Engine()
    behind = await listen(kind, WatchedSite(engine))
    url = f"unix:{behind.port.getHost().name.decode()}" if kind == "unix" else behind.url
    proxy = await proxies(url, tokens=["tcp"])
    here = proxy.url.replace("http://localhost", "tcp://127.0.0.1")
    done = await deferToThread(
        subprocess.run,
        [find("docker"), "-H", here, "exec", "-i", "box", "cat"],
        input=LARGE_FILE,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == EXIT_CODE, done.stderr
    assert done.stdout == LARGE_FILE + b"done\n"
    assert engine.started["Detach"] is False
    assert ("GET", "/exec/1/json") in engine.asked
