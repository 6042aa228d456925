"""Which upgrades a server sees in the fields of a request: Connection and Upgrade are lists."""

from __future__ import annotations

from ..subject import Subject
from ..wire import Broken
from .check import Group, Level
from .steps import UNKNOWN, does_not_switch, trying

__all__ = ["GROUP"]

GROUP = Group("Choosing: the lists of Connection and Upgrade", needs_upgrade=True)


@GROUP.check("connection-list", Level.MUST, "RFC 9110 §7.6.1")
def connection_list(server: Subject) -> None:
    """Connection: keep-alive, Upgrade."""
    server.switches(connection=["keep-alive, Upgrade"])


@GROUP.check("connection-lines", Level.MUST, "RFC 9110 §5.3")
def connection_lines(server: Subject) -> None:
    """Two lines, Connection: keep-alive and Connection: Upgrade, in both orders."""
    for lines in (["keep-alive", "Upgrade"], ["Upgrade", "keep-alive"]):
        with trying(", then ".join(lines)):
            server.switches(connection=lines)


@GROUP.check("connection-case", Level.MUST, "RFC 9110 §7.6.1")
def connection_case(server: Subject) -> None:
    """Connection: uPGRADE."""
    server.switches(connection=["uPGRADE"])


@GROUP.check("connection-empty-elements", Level.MUST, "RFC 9110 §5.6.1.2")
def connection_empty_elements(server: Subject) -> None:
    """Connection: a list with empty elements and tabs, in which Upgrade stands."""
    server.switches(connection=[",keep-alive , \t,Upgrade\t,"])


@GROUP.check("connection-close", Level.PEERS, "RFC 9110 §7.6.1")
def connection_close(server: Subject) -> None:
    """Connection: close, Upgrade."""
    server.switches(connection=["close, Upgrade"])


# RFC 6455 §4.2.1: a server has to stop at any violation of the handshake.
@GROUP.check("connection-missing", Level.PEERS, "RFC 9110 §7.8", websocket=Level.MUST)
def connection_missing(server: Subject) -> None:
    """An Upgrade that Connection does not name: without Connection, and with Connection: keep-alive."""
    for lines in ([], ["keep-alive"]):
        with trying(f"Connection: {lines[0]}" if lines else "without Connection"):
            does_not_switch(server, server.upgrade(connection=lines))


@GROUP.check("connection-other-option", Level.PEERS, "RFC 9110 §7.6.1", websocket=Level.MUST)
def connection_other_option(server: Subject) -> None:
    """An Upgrade with a Connection in which other options have "upgrade" in their name."""
    does_not_switch(server, server.upgrade(connection=["no-upgrade, upgraded"]))


@GROUP.check("upgrade-unknown-first", Level.PEERS, "RFC 9110 §7.8")
def unknown_first(server: Subject) -> None:
    """Upgrade: an unknown token, then a known one."""
    server.switches(offer=[f"{UNKNOWN}, {server.token}"])


@GROUP.check("upgrade-unknown-behind", Level.PEERS, "RFC 9110 §7.8")
def unknown_behind(server: Subject) -> None:
    """Upgrade: a known token, then an unknown one, without a space between them."""
    server.switches(offer=[f"{server.token},{UNKNOWN}"])


@GROUP.check("upgrade-lines", Level.PEERS, "RFC 9110 §5.3")
def upgrade_lines(server: Subject) -> None:
    """Two lines, Upgrade with an unknown token and Upgrade with a known one, in both orders."""
    for lines in ([UNKNOWN, server.token], [server.token, UNKNOWN]):
        with trying(", then ".join(lines)):
            server.switches(offer=lines)


@GROUP.check("upgrade-versions", Level.PEERS, "RFC 9110 §7.8")
def upgrade_versions(server: Subject) -> None:
    """Upgrade: two unknown tokens with versions, then a known token."""
    server.switches(offer=[f"{UNKNOWN}/2.0, {UNKNOWN}/1, {server.token}"])


@GROUP.check("upgrade-empty-elements", Level.MUST, "RFC 9110 §5.6.1.2")
def upgrade_empty_elements(server: Subject) -> None:
    """Upgrade: a list with empty elements and tabs, in which a known token stands."""
    server.switches(offer=[f", \t,{server.token}\t,,"])


@GROUP.check("upgrade-case", Level.SHOULD, "RFC 9110 §7.8", websocket=Level.MUST)
def upgrade_case(server: Subject) -> None:
    """Upgrade: the token's name with its upper case lower, and its lower case upper."""
    name, slash, version = server.token.partition("/")
    server.switches(offer=[f"{name.swapcase()}{slash}{version}"])


@GROUP.check("upgrade-other-name", Level.MUST, "RFC 9110 §7.8")
def upgrade_other_name(server: Subject) -> None:
    """Upgrade: tokens that only begin, or only end, like the known one."""
    name = server.token.partition("/")[0]
    for offered in (f"{name}-probe", f"probe-{name}"):
        with trying(f"Upgrade: {offered}"):
            does_not_switch(server, server.upgrade(offer=[offered]))


@GROUP.check("upgrade-bad-grammar", Level.PEERS, "RFC 9110 §7.8")
def upgrade_bad_grammar(server: Subject) -> None:
    """Upgrade: values in which the token stands, but which break the grammar."""
    name = server.token
    # A vertical tab is no white space in HTTP.
    for value in (f'"{name}"', f"{name};q=1", f"{name} {UNKNOWN}", f"\x0b{name}"):
        with trying(f"Upgrade: {value}"):
            does_not_switch(server, server.upgrade(offer=[value]))


@GROUP.check("upgrade-unknown", Level.MUST, "RFC 9110 §7.8")
def upgrade_unknown(server: Subject) -> None:
    """Upgrade: an unknown token alone."""
    does_not_switch(server, server.upgrade(offer=[UNKNOWN]))


@GROUP.check("upgrade-nothing", Level.MUST, "RFC 9110 §7.8")
def upgrade_nothing(server: Subject) -> None:
    """Connection: Upgrade with an empty Upgrade, and without any."""
    for lines in ([""], []):
        with trying("with an empty Upgrade" if lines else "without Upgrade"):
            does_not_switch(server, server.upgrade(offer=lines))


@GROUP.check("upgrade-unknown-ignored", Level.PEERS, "RFC 9110 §7.8")
def upgrade_unknown_ignored(server: Subject) -> None:
    """The same GET twice: without Upgrade, and with Upgrade: an unknown token."""
    plain = does_not_switch(server, server.request())
    asked = does_not_switch(server, server.request("Connection: Upgrade", f"Upgrade: {UNKNOWN}"))
    if asked.status != plain.status:
        raise Broken(f"{plain}, and with the unknown token {asked}", f"{plain} both times")
