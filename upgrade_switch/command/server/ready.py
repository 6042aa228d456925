"""
``serve --ready``: whether the server takes new connections, for load balancers.
"""

from __future__ import annotations

from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from ...server.site import UpgradeSite
from .proxy import Mounted

__all__ = ["with_ready"]


class _Ready(Resource):
    """Answers 200, and 503 when the site is going down."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        site = request.site
        assert isinstance(site, UpgradeSite)
        request.setHeader(b"content-type", b"text/plain; charset=utf-8")
        request.setHeader(b"cache-control", b"no-store")
        if not site.draining:
            return b"ready\n"
        request.setResponseCode(503)
        if request.clientproto != b"HTTP/2":
            request.setHeader(b"connection", b"close")
            # The field alone would leave it to the client.
            request.channel.persistent = False
        return b"draining\n"


def with_ready(tree: IResource, path: str | None) -> IResource:
    """
    A site's tree, with the answer to load balancers in it. It needs no password, whatever is guarded:
    they have none, and it tells nothing else.

    :param path: where it is; None: nowhere.
    """
    return tree if path is None else Mounted(tree, (), {path: _Ready()})
