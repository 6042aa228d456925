"""
``serve --auth``: user names and passwords for a site, or for parts of it (HTTP Basic, RFC 7617),
checked by one of ``twisted.cred.strcred``'s methods.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.cred.checkers import ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.cred.strcred import InvalidAuthType, makeChecker
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.usage import UsageError
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

__all__ = ["Guarded", "checker_of", "segments_of"]

_REALM = "upgrade_switch"


def checker_of(method: str) -> ICredentialsChecker:
    """
    What checks passwords.

    :param method: one of ``strcred``'s, ``file:/etc/passwords``.
    :raises UsageError: where it is none, or none for passwords.
    """
    kind, _, argument = method.partition(":")
    if kind == "file" and not (os.path.isfile(argument) and os.access(argument, os.R_OK)):
        raise UsageError(f"--auth: no file that can be read: {argument!r}")
    try:
        checker: Any = makeChecker(method)
    except InvalidAuthType:
        raise UsageError(f"--auth: no method {kind!r}; --help-auth lists them") from None
    except Exception as error:
        # Plugins raise what they like.
        raise UsageError(f"--auth {kind}: {error}") from None
    if IUsernamePassword not in checker.credentialInterfaces:
        raise UsageError(f"--auth: {kind!r} does not check passwords")
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # strcred gives it texts, HTTP asks it with bytes.
        texts, checker = checker.users, InMemoryUsernamePasswordDatabaseDontUse()
        for name, password in texts.items():
            checker.addUser(os.fsencode(name), os.fsencode(password))
    password_checker: ICredentialsChecker = checker
    return password_checker


@implementer(ICredentialsChecker)
class _AnyOf:
    """Lets in whom one of several checkers lets in."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, checkers: Sequence[Any]) -> None:
        self._checkers = checkers

    async def _first(self, credentials: Any) -> Any:
        for checker in self._checkers:
            try:
                return await maybeDeferred(checker.requestAvatarId, credentials)
            except (UnauthorizedLogin, ValueError):
                # ValueError: unix fails so on what is no text, or has a NUL in it.
                continue
        raise UnauthorizedLogin

    def requestAvatarId(self, credentials: Any) -> Any:
        return Deferred.fromCoroutine(self._first(credentials))


@implementer(IRealm)
class _Everybody:
    """Gives everybody who gets in the same resource."""

    def __init__(self, resource: IResource) -> None:
        self._resource = resource

    def requestAvatar(self, avatarId: object, mind: object, *interfaces: Any) -> Any:
        return IResource, self._resource, _nothing


def _nothing() -> None:
    """What there is to do at the end of a login."""


class Guarded(Resource):
    """In front of a site's tree: asks for a password where a path, or one above it, wants one."""

    def __init__(self, root: IResource, checkers: Mapping[str, Sequence[ICredentialsChecker]]) -> None:
        """
        :param checkers: who may go to a path and below it. The longest path that fits decides alone.
        """
        super().__init__()
        self._root = root
        # Longest first.
        self._guards: list[tuple[list[bytes], Any]] = [
            (segments_of(path), _guard(root, checkers[path]))
            for path in sorted(checkers, key=lambda path: len(segments_of(path)), reverse=True)
        ]

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        # What does not count in a path must not lead around a guard; nor must an escaped slash, or
        # "..", where a resource takes them for what they are in the names of files.
        asked = _parts(b"/".join((path, *request.postpath)))
        if b".." in asked:
            return notFound()
        for segments, guard in self._guards:
            if asked[: len(segments)] == segments:
                guarded: IResource = guard.getChildWithDefault(path, request)
                return guarded
        child: IResource = self._root.getChildWithDefault(path, request)
        return child


def _guard(root: IResource, checkers: Sequence[ICredentialsChecker]) -> HTTPAuthSessionWrapper:
    portal = Portal(_Everybody(root), [_AnyOf(checkers)])
    return HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(_REALM)])


def segments_of(path: str) -> list[bytes]:
    """The parts of a path that count, without their escapes."""
    return _parts(unquote_to_bytes(path))


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
