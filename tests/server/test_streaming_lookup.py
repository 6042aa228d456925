"""The resource of a request with a content is looked up at the head."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.web.resource import IResource, Resource

from tests.kit.streamed import (
    EITHER,
    HOST,
    PAGE,
    Joined,
    Uploads,
    put,
    uploading,
)
from upgrade_switch import UpgradeRequest, UpgradeSite


class Form(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        return repr(sorted(request.args.items())).encode() + request.content.read()


# The lookup.


class Counting(Resource):
    """Counts how often a child is looked up."""

    def __init__(self, child: IResource) -> None:
        super().__init__()
        self.child = child
        self.asked: list[bytes] = []

    def getChild(self, path: bytes, request: Any) -> IResource:
        self.asked.append(path)
        request.setHeader(b"x-asked", b"%d" % len(self.asked))
        return self.child


@pytest.mark.parametrize("child", [Uploads(), Form()])
@pytest.mark.parametrize("whole", EITHER)
def test_looked_up_once(child: IResource, whole: bytes) -> None:
    """The resource is looked up once, whichever it is; what that did to the request stays."""
    root = Counting(child)
    site = UpgradeSite(root, reactor=Clock())
    client = Joined(site, 7).send(whole)
    assert client.statuses == [200]
    assert b"X-Asked: 1\r\n" in client.received
    assert root.asked == [b"u"]


class Failing(Resource):
    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def getChild(self, path: bytes, request: Any) -> IResource:
        self.asked += 1
        raise ZeroDivisionError


def test_lookup_that_raises(errors: list[Any]) -> None:
    """A lookup that raises is answered 500 behind the content, and not repeated."""
    root = Failing()
    site: Any = UpgradeSite(root, reactor=Clock())
    client = Joined(site).send(put(b"abc")[:-1])
    assert (root.asked, client.received) == (1, b"")
    client.send(b"c" + put(b"abc"))
    assert client.statuses == [500, 500]
    assert root.asked == 2
    assert [event["log_failure"].type for event in errors] == [ZeroDivisionError] * 2
    errors.clear()


class Rewriting(Resource):
    """Changes the request on the way to a resource."""

    def getChild(self, path: bytes, request: Any) -> IResource:
        request.path, request.uri, request.method = b"/new", b"/new?q", b"PATCH"
        request.args[b"way"] = [b"1"]
        return Saying()


class Saying(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        said = (request.path, request.uri, request.method, sorted(request.args), request.prepath)
        return repr(said).encode()


def test_what_a_lookup_changes_stays() -> None:
    """With and without a content, the resource sees what was changed on the way to it."""
    client = Joined(UpgradeSite(Rewriting(), reactor=Clock()))
    for request in (b"GET /u?a=1 HTTP/1.1\r\n" + HOST + b"\r\n", put(b"abc", path=b"/u?a=1")):
        client.send(request)
    first, second = client.bodies
    assert first == second == repr((b"/new", b"/new?q", b"PATCH", [b"a", b"way"], [b"u"])).encode()


def test_process_of_a_subclass() -> None:
    """A subclass's process is called once; if it says another path, that is looked up."""
    seen: list[Any] = []

    class Mine(UpgradeRequest):
        def process(self) -> None:
            seen.append((self.uri, self.content.read() if self.content else None))
            if self.path == b"/old":
                self.path = b"/page"
            super().process()

    site, _ = uploading(requestFactory=Mine)
    client = Joined(site).send(put(b"abc") + put(b"def", path=b"/old"))
    assert seen == [(b"/u", b""), (b"/old", b"def")]
    assert client.statuses == [200, 200]


@pytest.mark.parametrize(
    "fields",
    [b"", HOST + HOST, HOST + b"Authorization: a\r\nAuthorization: b\r\n"],
)
def test_bad_requests(fields: bytes) -> None:
    """What is wrong with a request is found before anything is rendered."""
    site, resource = uploading()
    client = Joined(site).send(b"PUT /u HTTP/1.1\r\nContent-Length: 3\r\n" + fields + b"\r\nabc" + PAGE)
    assert client.statuses == [400, 200]
    assert resource.requests == []


def test_absolute_form() -> None:
    """A target in absolute-form is in origin-form when the resource sees it."""
    site, resource = uploading()
    client = Joined(site).send(put(b"abc", path=b"http://a.example/u?x")[:-3])
    (request,) = resource.requests
    assert (request.uri, request.getHeader("host")) == (b"/u?x", "a.example")
    client.send(b"abc")
    assert (client.statuses, site.lines) == ([200], [(200, b"/u?x")])


def test_render_that_raises(errors: list[Any]) -> None:
    """A resource that raises is answered 500, and the connection goes on."""

    class Raising(Uploads):
        def begin(self, request: Any) -> None:
            raise ZeroDivisionError

    site, _ = uploading(Raising())
    for at in range(1, len(put(b"abc"))):
        client = Joined(site, [at]).send(put(b"abc") + PAGE)
        assert client.statuses == [500, 200]
    errors.clear()
