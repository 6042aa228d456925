"""
``serve --auth``: user names and passwords for a site or parts of it (HTTP Basic, RFC 7617), checked by
a method of ``twisted.cred.strcred``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import ICredentials, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.cred.strcred import InvalidAuthType, makeChecker
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.usage import UsageError
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request
from zope.interface import implementer

from ...server.request import UpgradeRequest

__all__ = ["Guarded", "checker_of", "proxy_portal", "segments_of"]

_REALM = "upgrade_switch"

# RFC 3986 §3.3: parameters of a segment, which belong to its name for most servers, but not for all.
_PARAMETERS = re.compile(rb";[^/]*")


def checker_of(method: str) -> ICredentialsChecker:
    """
    The checker that a method's string describes.

    :param method: as ``strcred`` has it: ``file:/etc/passwords``.
    :raises UsageError: if there is no such method, or if it does not check passwords.
    """
    kind, _, argument = method.partition(":")
    if kind == "file" and not (os.path.isfile(argument) and os.access(argument, os.R_OK)):
        raise UsageError(f"--auth: cannot read the file {argument!r}")
    try:
        checker: Any = makeChecker(method)
    except InvalidAuthType:
        raise UsageError(f"--auth: no method {kind!r}; --help-auth lists all methods") from None
    except Exception as error:
        # A plugin can raise anything.
        raise UsageError(f"--auth {kind}: {error}") from None
    if IUsernamePassword not in checker.credentialInterfaces:
        raise UsageError(f"--auth: {kind!r} does not check passwords")
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # strcred fills it with strings, and HTTP asks it with bytes.
        users, checker = checker.users, InMemoryUsernamePasswordDatabaseDontUse()
        for name, password in users.items():
            checker.addUser(os.fsencode(name), os.fsencode(password))
    password_checker: ICredentialsChecker = checker
    return password_checker


@implementer(ICredentialsChecker)
class _AnyOf:
    """Lets a user in if one of several checkers does."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: Sequence[ICredentialsChecker]) -> None:
        self._checkers = checkers

    async def _first(self, credentials: ICredentials) -> bytes | tuple[()]:
        for checker in self._checkers:
            try:
                avatar: bytes | tuple[()] = await maybeDeferred(checker.requestAvatarId, credentials)
            except (UnauthorizedLogin, ValueError):
                # ValueError: the method unix raises it for bytes that are not text, and for NULs.
                continue
            return avatar
        raise UnauthorizedLogin

    def requestAvatarId(self, credentials: ICredentials) -> Deferred[bytes | tuple[()]]:
        return Deferred.fromCoroutine(self._first(credentials))


@implementer(IRealm)
class _SameForAll:
    """Gives every user the same resource."""

    def __init__(self, resource: IResource) -> None:
        self._resource = resource

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: object
    ) -> tuple[type[IResource], IResource, Callable[[], None]]:
        # Checkers give back what they were asked with: bytes.
        name = (
            avatarId.decode("utf-8", "replace") if isinstance(avatarId, bytes) else str(avatarId or "")
        )
        return IResource, _AsUser(self._resource, name), _nothing


class _AsUser(Resource):
    """A tree, for requests of a user whose password has been checked."""

    def __init__(self, resource: IResource, name: str) -> None:
        super().__init__()
        self._resource = resource
        self._name = name

    def getChildWithDefault(self, path: bytes, request: UpgradeRequest) -> IResource:
        request.authenticated_user = self._name
        child: IResource = self._resource.getChildWithDefault(path, request)
        return child

    def render(self, request: UpgradeRequest) -> int | bytes:
        request.authenticated_user = self._name
        answer: int | bytes = self._resource.render(request)
        return answer


def _nothing() -> None:
    """Nothing has to be done at the end of a login."""


class Guarded(Resource):
    """Stands in front of a site's tree, and asks for a password where a path requires one."""

    def __init__(self, root: IResource, checkers: Mapping[str, Sequence[ICredentialsChecker]]) -> None:
        """
        :param root: the tree.
        :param checkers: the checkers of each path, which is protected with everything below it; only
            the longest path that matches a request counts.
        """
        super().__init__()
        self._root = root
        # Longest first.
        self._guards: list[tuple[list[bytes], HTTPAuthSessionWrapper]] = [
            (segments_of(path), _guard(root, checkers[path]))
            for path in sorted(checkers, key=lambda path: len(segments_of(path)), reverse=True)
        ]

    def getChildWithDefault(self, path: bytes, request: Request) -> IResource:
        # Empty segments and "." must not lead around a guard; nor must an escaped slash or "..", which
        # a resource may take for what they are in the names of files; nor must what some servers behind
        # a proxy leave out of a path (";x"), or take for a slash.
        asked = b"/".join((path, *(request.postpath or ())))
        readings = _parts(asked), _parts(_PARAMETERS.sub(b"", asked.replace(b"\\", b"/")))
        if any(b".." in reading for reading in readings):
            return notFound()
        for segments, guard in self._guards:
            if any(reading[: len(segments)] == segments for reading in readings):
                guarded: IResource = guard.getChildWithDefault(path, request)
                return guarded
        child: IResource = self._root.getChildWithDefault(path, request)
        return child


def _guard(root: IResource, checkers: Sequence[ICredentialsChecker]) -> HTTPAuthSessionWrapper:
    return HTTPAuthSessionWrapper(_portal(root, checkers), [BasicCredentialFactory(_REALM)])


def _portal(root: IResource, checkers: Sequence[ICredentialsChecker]) -> Portal:
    return Portal(_SameForAll(root), [_AnyOf(checkers)])


def proxy_portal(checkers: Mapping[str, Sequence[ICredentialsChecker]]) -> Portal | None:
    """
    The users who may use the site as a proxy: those who may see all of it, since a CONNECT has no path.

    :param checkers: the checkers of each path.
    :return: None if everybody may.
    :raises UsageError: if they are for some paths only.
    """
    if not checkers:
        return None
    if "/" not in checkers:
        raise UsageError(
            "--connect-to together with --auth for some paths only: CONNECT has no path, and would be "
            "open to everybody; give --auth METHOD, for the whole site"
        )
    return _portal(Resource(), checkers["/"])


def segments_of(path: str) -> list[bytes]:
    """The segments of a path, unescaped, without empty ones and "."."""
    return _parts(unquote_to_bytes(path))


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
