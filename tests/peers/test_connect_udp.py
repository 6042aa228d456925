"""UDP through the proxy, for clients that others have written."""

from __future__ import annotations

import io
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.threads import deferToThread
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from tests.kit.certificate import CERTIFICATE_PEM
from tests.kit.datagrams import udp_site
from upgrade_switch.protocols import Destinations

pycurl = pytest.importorskip("pycurl")
http3 = pytest.importorskip("tests.kit.http3")

pytestmark = pytest.mark.skipif(
    pycurl.version_info()[2] < 0x081700, reason="libcurl 8.23 is the first that speaks connect-udp"
)

# curl's CURL_HTTP_VERSION_3ONLY.
ONLY_HTTP3 = 31

PAGE = http3.Serving.PAGE


def fetch(proxy: int, url: str, body: bytes | None = None, user: str | None = None) -> Any:
    """
    Fetch a page over HTTP/3 with libcurl, through a proxy.

    :return: the page, and the code that the proxy has answered with.
    """
    received = io.BytesIO()
    curl = pycurl.Curl()
    curl.setopt(curl.URL, url)
    curl.setopt(curl.HTTP_VERSION, ONLY_HTTP3)
    curl.setopt(curl.PROXY, f"http://127.0.0.1:{proxy}")
    curl.setopt(curl.HTTPPROXYTUNNEL, True)
    curl.setopt(curl.NOPROXY, "")
    curl.setopt(curl.CAINFO_BLOB, CERTIFICATE_PEM)
    curl.setopt(curl.TIMEOUT, 30)
    curl.setopt(curl.WRITEDATA, received)
    if user is not None:
        curl.setopt(curl.PROXYUSERPWD, user)
    if body is not None:
        curl.setopt(curl.POSTFIELDS, body)
    try:
        curl.perform()
    except pycurl.error as error:
        return error, curl.getinfo(curl.HTTP_CONNECTCODE)
    finally:
        curl.close()
    return received.getvalue(), None


@pytest.fixture(scope="module")
def server() -> Any:
    """A server of HTTP/3."""
    with http3.http3_server() as port:
        yield port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest_twisted.ensureDeferred
async def test_libcurl_over_http3(host: str, listen: Any, server: int) -> None:
    """libcurl loads 300 kB over HTTP/3 through the proxy, and sends as many."""
    listening = await listen("tcp", udp_site(Destinations("127.0.0.1:*")))
    url = f"https://{host}:{server}/"
    proxy = listening.port.getHost().port
    page, _ = await deferToThread(fetch, proxy, url)
    assert page == PAGE
    body = bytes(range(256)) * 1200
    page, _ = await deferToThread(fetch, proxy, url, body)
    assert page == body + PAGE
    assert {line[0] for line in listening.site.lines} == {101}


def impersonate(proxy: int, url: str, authority: Path) -> Any:
    """The same with curl_cffi: what it has is curl-impersonate's libcurl, with BoringSSL."""
    curl_cffi = import_module("curl_cffi")
    option, received = curl_cffi.CurlOpt, io.BytesIO()
    curl = curl_cffi.Curl()
    curl.setopt(option.URL, url.encode())
    curl.setopt(option.HTTP_VERSION, ONLY_HTTP3)
    curl.setopt(option.PROXY, b"http://127.0.0.1:%d" % proxy)
    curl.setopt(option.HTTPPROXYTUNNEL, 1)
    curl.setopt(option.NOPROXY, b"")
    curl.setopt(option.CAINFO, str(authority).encode())
    curl.setopt(option.TIMEOUT, 30)
    curl.setopt(option.WRITEDATA, received)
    try:
        curl.perform()
    finally:
        curl.close()
    return received.getvalue()


@pytest_twisted.ensureDeferred
async def test_curl_cffi_over_http3(listen: Any, server: int, tmp_path: Path) -> None:
    """So does curl_cffi, which is another build of libcurl."""
    pytest.importorskip("curl_cffi", minversion="0.17")
    authority = tmp_path / "authority.pem"
    authority.write_bytes(CERTIFICATE_PEM)
    listening = await listen("tcp", udp_site(Destinations("127.0.0.1:*")))
    proxy, url = listening.port.getHost().port, f"https://127.0.0.1:{server}/"
    assert await deferToThread(impersonate, proxy, url, authority) == PAGE
    assert {line[0] for line in listening.site.lines} == {101}


@pytest_twisted.ensureDeferred
async def test_libcurl_is_refused(listen: Any, server: int) -> None:
    """libcurl says what the proxy has answered."""
    listening = await listen("tcp", udp_site(Destinations("example.com:443")))
    proxy = listening.port.getHost().port
    error, code = await deferToThread(fetch, proxy, f"https://127.0.0.1:{server}/")
    assert isinstance(error, pycurl.error)
    assert code == 403
    assert {line[0] for line in listening.site.lines} == {403}


@implementer(IRealm)
class Realm:
    """Lets everybody in."""

    def requestAvatar(self, avatar: bytes, mind: object, *interfaces: Any) -> Any:
        return IResource, Resource(), lambda: None


@pytest_twisted.ensureDeferred
async def test_libcurl_logs_in(listen: Any, server: int) -> None:
    """libcurl's user and password for the proxy let it in."""
    portal = Portal(Realm(), [InMemoryUsernamePasswordDatabaseDontUse(bob=b"secret")])
    listening = await listen("tcp", udp_site(Destinations("127.0.0.1:*"), portal=portal))
    proxy, url = listening.port.getHost().port, f"https://127.0.0.1:{server}/"
    page, _ = await deferToThread(fetch, proxy, url, user="bob:secret")
    assert page == PAGE
    error, code = await deferToThread(fetch, proxy, url)
    assert (isinstance(error, pycurl.error), code) == (True, 407)
