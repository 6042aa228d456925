"""What must not pass, because it would get around the proxy's rules."""

from __future__ import annotations

from ...passage import Passage
from ...wire import Broken
from ..check import Group, Level, Skipped
from .passing import through

__all__ = ["GROUP"]

GROUP = Group("Tokens that must not pass")

_SECTION = "RFC 9110 §7.8"


@through(GROUP, "h2c", Level.PEERS, "RFC 9113 §3.1", needs_upgrade=False)
def h2c(proxy: Passage) -> None:
    """A request for h2c, behind which a client gets past the proxy's rules for each request."""
    _does_not_pass(
        proxy, "h2c", "HTTP2-Settings: AAMAAABkAAQAAP__", connection="Upgrade, HTTP2-Settings"
    )


@through(GROUP, "h2c-alone-in-connection", Level.PEERS, "RFC 9113 §3.1", needs_upgrade=False)
def h2c_without_settings(proxy: Passage) -> None:
    """A request for h2c, whose Connection does not name HTTP2-Settings."""
    _does_not_pass(proxy, "h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


@through(GROUP, "h2c-behind-token", Level.PEERS, "RFC 9113 §3.1")
def h2c_behind_the_token(proxy: Passage) -> None:
    """A request for the token, or else h2c."""
    _does_not_pass(proxy, "h2c", offer=f"{proxy.token}, h2c")


@through(GROUP, "tls", Level.PEERS, "RFC 2817 §3.2", needs_upgrade=False)
def tls(proxy: Passage) -> None:
    """A request for TLS/1.2, behind which a client gets past the proxy's rules for each request."""
    _does_not_pass(proxy, "TLS/1.2")


@through(GROUP, "unknown-token", Level.PEERS, _SECTION, needs_upgrade=False)
def unknown(proxy: Passage) -> None:
    """A request for a token that nobody has told the proxy to pass."""
    _does_not_pass(proxy, "probe-unknown")


@through(GROUP, "upgrade-without-connection", Level.PEERS, _SECTION, needs_upgrade=False)
def without_connection(proxy: Passage) -> None:
    """A request with Upgrade: TOKEN, and Connection: keep-alive."""
    with proxy.open() as near:
        near.send(proxy.upgrade(connection=["keep-alive"]))
        far = proxy.may_arrive(near)
        if far is None:
            return
        with far:
            far.answer("200 OK")
            if proxy.asks(far.request):
                raise Broken(f"a request for {proxy.token} at the far side", "one without Upgrade")


@through(
    GROUP, "upgrade-removed-without-connection", Level.SHOULD, "RFC 9110 §7.6.1", needs_upgrade=False
)
def removed_without_connection(proxy: Passage) -> None:
    """A request with Upgrade: probe-unknown, and without Connection."""
    with proxy.open() as near:
        near.send(proxy.request("Upgrade: probe-unknown"))
        far = proxy.may_arrive(near)
        if far is None:
            return
        with far:
            far.answer("200 OK")
            if "probe-unknown" in far.request.elements(b"upgrade"):
                raise Broken("Upgrade: probe-unknown at the far side", "no Upgrade there")


def _does_not_pass(
    proxy: Passage,
    token: str,
    *lines: str,
    offer: str | None = None,
    connection: str = "Upgrade",
) -> None:
    """The far side is not asked for it, and if it switches nevertheless, the client gets no 101."""
    if proxy.token.lower() == token.lower():
        raise Skipped("it was given as TOKEN")
    with proxy.open() as near:
        fields = (f"Connection: {connection}", f"Upgrade: {offer or token}", *lines)
        near.send(proxy.request(*fields, *(proxy.handshake() if offer else ())))
        far = proxy.may_arrive(near)
        if far is None:
            proxy.does_not_switch(near)
            return
        with far:
            far.answer("200 OK")
            if token.lower() in far.request.elements(b"upgrade"):
                raise Broken(f"Upgrade: {token} at the far side", f"a request without {token}")
