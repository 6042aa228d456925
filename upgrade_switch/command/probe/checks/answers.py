"""What a 101 and a 426 have to say, and what they must not."""

from __future__ import annotations

from ..subject import Subject
from ..wire import Broken, Response, shown
from .check import Group, Level, Skipped
from .steps import UNKNOWN, does_not_switch

__all__ = ["GROUP"]

GROUP = Group("Answers: the fields of 101 and of refusals", needs_upgrade=True)


# A server may ignore any Upgrade, but whoever runs the checks says that it does not ignore this one.
@GROUP.check("plain-upgrade", Level.MUST, "RFC 9110 §7.8", needs_upgrade=False)
def plain_upgrade(server: Subject) -> None:
    """The plainest upgrade that there is; when the 101 has come, something to be sent back."""
    server.switches()


@GROUP.check("101-version", Level.SHOULD, "RFC 9110 §6.2")
def version_of_101(server: Subject) -> None:
    """An upgrade."""
    version = _switched(server).version
    if version != "1.1":
        raise Broken(f"a 101 of HTTP/{version}", "one of HTTP/1.1")


@GROUP.check("101-upgrade", Level.MUST, "RFC 9110 §15.2.2")
def upgrade_of_101(server: Subject) -> None:
    """An upgrade."""
    if not _switched(server).elements(b"upgrade"):
        raise Broken("a 101 without Upgrade", "Upgrade with what has been switched to")


@GROUP.check("101-offered-token", Level.MUST, "RFC 9110 §7.8")
def offered_token_of_101(server: Subject) -> None:
    """An upgrade to one token."""
    response = _switched(server)
    named = response.elements(b"upgrade")
    if not named:
        raise Skipped("the 101 names no token")
    # Where layers are switched, the first is the one that was asked for (RFC 9110 §7.8).
    if named[0].lower() != server.token.lower():
        raise Broken(f"a 101 to {response.listed(b'upgrade')}", f"one to {server.token}")


@GROUP.check("101-connection", Level.MUST, "RFC 9110 §7.8")
def connection_of_101(server: Subject) -> None:
    """An upgrade."""
    _names_upgrade(_switched(server))


@GROUP.check("101-no-close", Level.PEERS, "RFC 9112 §9.6")
def no_close_in_101(server: Subject) -> None:
    """An upgrade."""
    if "close" in _options(_switched(server)):
        raise Broken("a 101 with Connection: close", "no close: the connection goes on")


@GROUP.check("101-no-content-length", Level.MUST, "RFC 9110 §8.6")
def no_content_length_in_101(server: Subject) -> None:
    """An upgrade."""
    _has_none(_switched(server), b"content-length")


@GROUP.check("101-no-transfer-encoding", Level.MUST, "RFC 9112 §6.1")
def no_transfer_encoding_in_101(server: Subject) -> None:
    """An upgrade."""
    _has_none(_switched(server), b"transfer-encoding")


@GROUP.check("426-upgrade", Level.MUST, "RFC 9110 §15.5.22", needs_upgrade=False)
def upgrade_of_426(server: Subject) -> None:
    """A GET without Upgrade, and one with an unknown token, until one is answered with a 426."""
    for request in _refusable(server):
        response = does_not_switch(server, request)
        if response.status == 426:
            if not response.elements(b"upgrade"):
                raise Broken("a 426 without Upgrade", "Upgrade with what is required")
            return
    raise Skipped("the server did not answer with a 426")


@GROUP.check("refusal-connection", Level.MUST, "RFC 9110 §7.8", needs_upgrade=False)
def connection_of_refusals(server: Subject) -> None:
    """A GET without Upgrade, and one with an unknown token, until an answer has Upgrade."""
    for request in _refusable(server):
        response = does_not_switch(server, request)
        if response.all(b"upgrade"):
            _names_upgrade(response)
            return
    raise Skipped("no answer had Upgrade")


def _switched(server: Subject) -> Response:
    with server.open() as wire:
        wire.send(server.upgrade())
        return server.switched(wire)


def _refusable(server: Subject) -> tuple[bytes, bytes]:
    return (
        server.request(),
        server.request("Connection: Upgrade", f"Upgrade: {UNKNOWN}"),
    )


def _options(response: Response) -> list[str]:
    return [option.lower() for option in response.elements(b"connection")]


def _names_upgrade(response: Response) -> None:
    if "upgrade" not in _options(response):
        given = response.listed(b"connection")
        came = f"Connection: {given}" if given else "no Connection"
        raise Broken(f"{response} with Upgrade and {came}", "Connection: Upgrade")


def _has_none(response: Response, name: bytes) -> None:
    if values := response.all(name):
        field = name.decode().title()
        raise Broken(f"a 101 with {field}: {shown(b', '.join(values))}", f"no {field}")
