"""
``serve --files``: the files of a directory, for strangers.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.web.http import stringToDatetime
from twisted.web.resource import IResource
from twisted.web.static import File

__all__ = ["Files", "is_hidden"]

# RFC 9110 §14.2: a server may ignore any Range. Of those with several ranges Twisted sends all, and
# strangers could have a file sent thousands of times for one request.
_RANGE = re.compile(rb"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-([0-9]{1,18}))\Z")

# RFC 8615: meant for everybody.
_WELL_KNOWN = ".well-known"


def is_hidden(name: str) -> bool:
    """Whether a name is not for strangers (``.git``, ``.env``, ``..``)."""
    return name.startswith(".") and name != _WELL_KNOWN


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Files(File):
    """
    Files, for strangers: what can be no name of a file is not there, nor is what begins with a dot, or
    is neither file nor directory; and nothing that a request may say is this server's mistake.
    Symbolic links are followed.
    """

    def getChild(self, path: bytes, request: Any) -> Any:
        try:
            name = path.decode("utf-8")
        except UnicodeDecodeError:
            return self.childNotFound
        # An escaped slash makes no name; FilePath.child would take "x%2F" for "x".
        if is_hidden(name) or {"\0", "/"} & set(name) or not request.uri.isascii():
            return self.childNotFound
        return super().getChild(path, request)

    def listNames(self) -> list[str]:
        """The names that a page for a directory shows."""
        names: list[str] = super().listNames()
        return [name for name in names if not is_hidden(name) and _is_utf8(name)]

    def directoryListing(self) -> IResource:
        """The page for a directory without an index."""
        try:
            listing: IResource = super().directoryListing()
        except OSError:
            # It may not be read.
            return self.forbidden
        return listing

    def render_GET(self, request: Any) -> Any:
        if not request.uri.isascii():
            # Neither HTTP/2 nor Twisted's HTTP/1.1 refuses it (RFC 3986 §2); File fails on it.
            return self.childNotFound.render(request)
        self.restat(False)
        if self.isfile():
            self._drop_what_makes_no_sense(request)
        elif self.exists() and not self.isdir():
            # A pipe would be waited for, with all of the server.
            return self.childNotFound.render(request)
        return super().render_GET(request)

    render_HEAD = render_GET

    def _drop_what_makes_no_sense(self, request: Any) -> None:
        """Ignore conditions and ranges on which Twisted fails (RFC 9110 §13.1.3, §13.1.5, §14.2)."""
        fields = request.requestHeaders
        since = request.getHeader(b"if-modified-since")
        if since is not None and not _is_date(since):
            fields.removeHeader(b"if-modified-since")
        wanted = request.getHeader(b"range")
        match = None if wanted is None else _RANGE.match(wanted)
        # A suffix that is longer than the file is all of it.
        is_all = match is not None and int(match[1] or 0) > self.getsize()
        if match is None or is_all or request.getHeader(b"if-range") is not None:
            fields.removeHeader(b"range")


def _is_date(value: bytes) -> bool:
    try:
        stringToDatetime(value.partition(b";")[0])
    except Exception:
        # ValueError, as its caller expects; and IndexError.
        return False
    return True
