"""
``serve --files``: the files of a directory, served to strangers.
"""

from __future__ import annotations

import re

from twisted.web.http import stringToDatetime
from twisted.web.resource import IResource
from twisted.web.server import Request
from twisted.web.static import File

__all__ = ["Files", "is_hidden"]

# RFC 9110 §14.2: a server may ignore any Range. Twisted serves all ranges of a request, so that a
# stranger could have a file sent thousands of times with one.
_RANGE = re.compile(rb"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-([0-9]{1,18}))\Z")

# RFC 8615: it is public by definition.
_WELL_KNOWN = ".well-known"


def is_hidden(name: str) -> bool:
    """Whether a name is not served (``.git``, ``.env``, ``..``)."""
    return name.startswith(".") and name != _WELL_KNOWN


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Files(File):
    """
    Files for strangers. Not found (404) are names that cannot be a file's, names that begin with a dot,
    and what is neither a file nor a directory; no request makes the server fail (500). Symbolic links
    are followed.
    """

    def getChild(self, path: bytes, request: Request) -> IResource:
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            return self._not_found()
        # A name has no escaped slash; FilePath.child would take "x%2F" for "x".
        if is_hidden(name) or {"\0", "/"} & set(name) or not request.uri.isascii():
            return self._not_found()
        child: IResource = super().getChild(path, request)
        return child

    def _not_found(self) -> IResource:
        page: IResource = self.childNotFound
        return page

    def listNames(self) -> list[str]:
        """The names that a page for a directory shows."""
        names: list[str] = super().listNames()
        return [name for name in names if not is_hidden(name) and _is_utf8(name)]

    def directoryListing(self) -> IResource:
        """The page for a directory without an index."""
        try:
            listing: IResource = super().directoryListing()
        except OSError:
            # It cannot be read.
            return self.forbidden
        return listing

    def render_GET(self, request: Request) -> bytes | int:
        if not request.uri.isascii():
            # Twisted refuses it neither in HTTP/1.1 nor in HTTP/2 (RFC 3986 §2), and File fails on it.
            return _rendered(self._not_found(), request)
        self.restat(False)
        if self.isfile():
            self._drop_bad_conditions(request)
        elif self.exists() and not self.isdir():
            # Opening a pipe would block the whole server.
            return _rendered(self._not_found(), request)
        rendered: bytes | int = super().render_GET(request)
        return rendered

    render_HEAD = render_GET

    def _drop_bad_conditions(self, request: Request) -> None:
        """Ignore conditions and ranges on which Twisted fails (RFC 9110 §13.1.3, §13.1.5, §14.2)."""
        fields = request.requestHeaders
        since = request.getHeader(b"if-modified-since")
        if since is not None and not _is_date(since):
            fields.removeHeader(b"if-modified-since")
        wanted = request.getHeader(b"range")
        match = None if wanted is None else _RANGE.match(wanted)
        # A suffix that is longer than the file means the whole file.
        is_all = match is not None and int(match[1] or 0) > self.getsize()
        if match is None or is_all or request.getHeader(b"if-range") is not None:
            fields.removeHeader(b"range")


def _rendered(page: IResource, request: Request) -> bytes | int:
    rendered: bytes | int = page.render(request)
    return rendered


def _is_date(value: bytes) -> bool:
    try:
        stringToDatetime(value.partition(b";")[0])
    except Exception:
        # ValueError, which its caller expects, but also IndexError.
        return False
    return True
