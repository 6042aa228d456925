"""
Who may use a proxy: ``Proxy-Authorization`` (RFC 9110 §11.7), checked by a ``twisted.cred`` portal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from twisted.cred.error import LoginFailed
from twisted.cred.portal import Portal
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure
from twisted.web.guard import BasicCredentialFactory
from twisted.web.resource import IResource
from zope.interface import Interface

from ...errors import InvalidArgument
from ...server.pages import StatusPage
from ...server.request import UpgradeRequest

__all__ = ["check_portal", "log_in"]

_REALM = "upgrade_switch"
_CHALLENGE = f'Basic realm="{_REALM}", charset="UTF-8"'.encode()


def check_portal(portal: object) -> None:
    """
    :raises InvalidArgument: if it is neither None nor a portal.
    """
    if portal is not None and not callable(getattr(portal, "login", None)):
        raise InvalidArgument(f"portal is a twisted.cred.portal.Portal, not {portal!r}")


def log_in(request: UpgradeRequest, portal: Portal) -> Deferred[Callable[[], object] | IResource]:
    """
    Check the name and the password of a proxy's client (HTTP Basic, RFC 7617). Its ``Authorization``,
    which is for the server behind the proxy (RFC 9110 §11.6.2), is not looked at.

    If they are right, ``request.authenticated_user`` is the name.

    :return: fires with what the caller calls when the client has left, or with a 407 (RFC 9110
        §15.5.8); fails with what the portal fails with, unless the name or the password is wrong.
    """
    field = request.getHeader(b"proxy-authorization") or b""
    scheme, _, response = field.strip(b" \t").partition(b" ")
    try:
        if scheme.lower() != b"basic":
            raise LoginFailed
        credentials = BasicCredentialFactory(_REALM).decode(response, request)
    except LoginFailed:
        return succeed(_challenge(request))
    # As twisted.web.guard asks, so that the same realm will do.
    login: Deferred[_LoggedIn] = portal.login(credentials, None, IResource)

    def logged_in(avatar: _LoggedIn) -> Callable[[], object] | IResource:
        request.authenticated_user = credentials.username.decode("utf-8", "replace")
        return avatar[2]

    def failed(reason: Failure) -> Callable[[], object] | IResource:
        # ValueError: strcred's method unix raises it for bytes that are not text, and for NULs.
        reason.trap(LoginFailed, ValueError)
        return _challenge(request)

    return login.addCallbacks(logged_in, failed)


# An interface, what provides it, and what to call at the end.
_LoggedIn: TypeAlias = tuple[type[Interface], object, Callable[[], None]]


def _challenge(request: UpgradeRequest) -> IResource:
    request.decline_detail = "Proxy-Authorization is missing or wrong"
    return StatusPage(
        407,
        "Proxy Authentication Required",
        "This proxy requires a name and a password.",
        {b"proxy-authenticate": _CHALLENGE},
    )
