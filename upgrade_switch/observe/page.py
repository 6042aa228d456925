"""
:class:`StatusResource`: a ``Status`` as a page, as JSON, and for Prometheus.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource

from .gathering import answered
from .status import IReading, Status

if TYPE_CHECKING:
    from twisted.web.server import Request

__all__ = ["StatusResource"]


class StatusResource(Resource):
    """
    Shows a :class:`Status`: a page that keeps itself up to date; the same as JSON at ``json`` below it
    (or for a client that asks for ``application/json``); and in Prometheus' text format at ``metrics``
    below it (with the extra ``metrics``). It shows who is connected, so do not make it public.
    """

    def __init__(self, status: Status) -> None:
        """
        :param status: what is shown.
        """
        super().__init__()
        self._status = status
        self._page = files(__package__).joinpath("status.html").read_bytes()
        self.putChild(b"json", _Json(status))
        self.putChild(b"metrics", _metrics(status))

    def getChild(self, path: bytes, request: object) -> IResource:
        child: IResource = self if path == b"" else notFound()
        return child

    def render_GET(self, request: Request) -> int | bytes:
        accepted = request.getHeader(b"accept") or b""
        request.setHeader(b"vary", b"Accept")
        if b"application/json" in accepted and b"text/html" not in accepted:
            body: int | bytes = self.children[b"json"].render(request)
            return body
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        # What is shown comes from strangers: it could not be run, even if it got into the page.
        request.setHeader(
            b"content-security-policy",
            b"default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
            b"script-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
        )
        return self._page


class _Json(Resource):
    isLeaf = True

    def __init__(self, status: Status) -> None:
        super().__init__()
        self._status = status

    def render_GET(self, request: Request) -> int | bytes:
        request.setHeader(b"content-type", b"application/json")
        request.setHeader(b"cache-control", b"no-store")
        return answered(request, self._status, _written)


def _written(reading: IReading) -> bytes:
    return json.dumps(reading.as_json()).encode("ascii")


def _metrics(status: Status) -> IResource:
    """Prometheus' text, or how to get it."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        missing: IResource = notFound("Not Found", "Metrics need the extra: upgrade_switch[metrics]")
        return missing
    from .metrics import MetricsResource

    return MetricsResource(status)
