"""
What back ends say about places, as the client sees them: ``Location`` and ``Content-Location`` (RFC
9110 §10.2.2, §8.7), and the Path and Domain of cookies (RFC 6265 §5.2).

Only what leads back through the proxy is changed: what begins with the back end's base path, as whole
segments, and where a host is named, that is the back end's or the one that it was sent. Queries,
fragments and percent-encoding stay as they are.

Pure: bytes in, bytes out; nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import NamedTuple

from ..fields import lower_names, names_of
from .forwarded import Field

__all__ = ["View", "answer_places", "cookie_for_client", "has_places", "location_for_client"]

# RFC 3986, Appendix B, for what is absolute: scheme and authority, path, and the rest.
_REFERENCE = re.compile(
    rb"(?:(?P<scheme>https?):)?//(?P<authority>[^/?#\\]*)(?P<path>/[^?#]*)?(?P<rest>(?:[?#].*)?)\Z",
    re.DOTALL | re.IGNORECASE,
)
_PATH = re.compile(rb"(?P<path>/(?![/\\])[^?#]*)(?P<rest>(?:[?#].*)?)\Z", re.DOTALL)

_DOT_SEGMENT = re.compile(rb"/(?:\.|%2e){1,2}(?=/|\Z)", re.IGNORECASE)

# A reference that begins so names a host (RFC 3986 §4.2), to a browser at least, which drops tabs.
_NAMES_HOST = re.compile(rb"/\t*[/\\]")

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


class View(NamedTuple):
    """A request, as the client and as the back end see where it went."""

    client_scheme: bytes
    client_authority: bytes
    """The client's Host; empty if it sent none."""
    mount: bytes
    """The path under which the client sees the back end, such as ``/app``; empty at the root."""
    scheme: bytes
    """The back end's."""
    authority: bytes
    """The back end's, from its URL."""
    base: bytes
    """The path of the back end's URL; a slash at its end makes no difference."""
    sent_host: bytes
    """The Host field that the back end got."""


def answer_places(
    fields: Iterable[Field], view: View, *, locations: bool, cookies: bool
) -> list[Field]:
    """
    An answer's fields with all places as the client sees them.

    :param locations: whether Location and Content-Location are changed.
    :param cookies: whether Set-Cookie is.
    """
    places = _PLACES[locations, cookies]
    return [
        (name, place(value, view) if (place := places.get(name.lower())) else value)
        for name, value in fields
    ]


def has_places(fields: Iterable[Field], *, locations: bool, cookies: bool) -> bool:
    """Whether :func:`answer_places` would look at any of an answer's fields."""
    return not _PLACES[locations, cookies].keys().isdisjoint(lower_names(names_of(fields)))


def location_for_client(value: bytes, view: View) -> bytes:
    """
    A back end's reference as the client sees it. One that is relative to the page stays as it is.
    """
    absolute = _REFERENCE.match(value)
    match = absolute or _PATH.match(value)
    if match is None:
        return value
    origin = b"" if absolute is None else _origin(absolute["scheme"], absolute["authority"], view)
    path = None if origin is None else _path_for_client(match["path"] or b"", view)
    if origin is None or path is None:
        return value
    rest: bytes = match["rest"]
    return (origin + path if origin else _path_alone(path)) + rest


def _path_alone(path: bytes) -> bytes:
    """
    A path that nothing stands in front of: an empty one would be the page itself, and ``//x`` a host,
    where ``/.//x`` is that path (RFC 3986 §4.2, §5.2.4).
    """
    return b"/." + path if _NAMES_HOST.match(path) else path or b"/"


def _origin(scheme: bytes | None, authority: bytes, view: View) -> bytes | None:
    """
    The client's view of where an absolute reference leads to: ``https://host``, or ``//host`` for one
    without a scheme, or nothing if the client's host is not known. None if that is somewhere else.

    A back end behind a proxy that speaks TLS calls itself ``http``: its own scheme stands for the
    client's. But an ``https`` that it says of its own accord stays: to undo it would send the client
    round in circles.
    """
    said = view.scheme if scheme is None else scheme.lower()
    named = _without_default_port(authority, said)
    is_back_end = said == view.scheme and named == _without_default_port(view.authority, view.scheme)
    # The Host may have the port that is the default of the back end's scheme, or of the client's.
    is_sent_host = named in {
        _without_default_port(view.sent_host, known)
        for known in (said, view.scheme, view.client_scheme)
    }
    if not (is_back_end or is_sent_host):
        return None
    if not view.client_authority:
        return b""
    if scheme is None:
        return b"//" + view.client_authority
    shown = view.client_scheme if is_back_end or said == b"http" else said
    return shown + b"://" + view.client_authority


def _without_default_port(authority: bytes, scheme: bytes) -> bytes:
    """An authority to compare (RFC 9110 §4.2.3)."""
    return authority.lower().removesuffix(_DEFAULT_PORTS[scheme]).removesuffix(b":")


def _path_for_client(path: bytes, view: View) -> bytes | None:
    """A path of the back end's, below the mount point; None if it is not below the base path."""
    if _DOT_SEGMENT.search(path):
        path = _without_dot_segments(path)
    below = _below(path, view.base)
    return None if below is None else view.mount + below


def _below(path: bytes, base: bytes) -> bytes | None:
    """What a path has behind another one, whose segments it begins with; else None."""
    base = base.removesuffix(b"/")
    if not path.startswith(base):
        return None
    below = path[len(base) :]
    return below if not below or below.startswith(b"/") else None


def _without_dot_segments(path: bytes) -> bytes:
    """RFC 3986 §5.2.4; encoded dots are dots (§6.2.2.2)."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for number, segment in enumerate(segments, 1):
        name = segment.lower().replace(b"%2e", b".")
        if name == b"..":
            del kept[-1:]
        if name not in (b".", b".."):
            kept.append(segment)
        elif number == len(segments):
            kept.append(b"")
    return b"".join(b"/" + segment for segment in kept)


def cookie_for_client(value: bytes, view: View) -> bytes:
    """
    A Set-Cookie whose Path and Domain are the client's (RFC 6265 §5.2.3, §5.2.4); what else there is
    stays as it is. A ``__Host-`` cookie keeps its Path, without which a browser refuses it.
    """
    pair, *attributes = value.split(b";")
    is_bound = pair.strip(b" \t")[:7].lower() == b"__host-"
    kept = [pair]
    for attribute in attributes:
        name, _, said = (part.strip(b" \t") for part in attribute.partition(b"="))
        if name.lower() == b"path" and not is_bound:
            attribute = _with_value(attribute, _cookie_path(said, view))
        elif name.lower() == b"domain" and not _keeps_domain(said, view):
            continue
        kept.append(attribute)
    return b";".join(kept)


def _with_value(attribute: bytes, value: bytes) -> bytes:
    name, equals, _ = attribute.partition(b"=")
    return name + equals + value if equals else attribute


def _cookie_path(path: bytes, view: View) -> bytes:
    """
    A cookie's Path. One above the base path is narrowed to the mount point: the client has other things
    beside it, which the back end must not get cookies into.
    """
    if not path.startswith(b"/"):
        # None that counts (RFC 6265 §5.2.4): the page's own.
        return path
    below = _below(path, view.base)
    if below is not None:
        # "/" means everything; "/app/" would leave out "/app" itself (RFC 6265 §5.1.4).
        is_all = below in (b"", b"/") and (not view.base.removesuffix(b"/") or not below)
        return (view.mount if is_all else view.mount + below) or b"/"
    if _below(view.base, path) is not None:
        return view.mount or b"/"
    return path


def _keeps_domain(domain: bytes, view: View) -> bool:
    """
    Whether a cookie's Domain stays. Without it, the cookie is the client's host's alone; with the back
    end's, a browser refuses it (RFC 6265 §5.3). One that holds for the client's host, too, was meant.
    """
    domain = domain.removeprefix(b".").lower()
    if not domain or _is_within(_host_of(view.client_authority), domain):
        return True
    hosts = {_host_of(view.authority), _host_of(view.sent_host)}
    return not any(_is_within(host, domain) for host in hosts)


def _host_of(authority: bytes) -> bytes:
    host, colon, port = authority.rpartition(b":")
    return (host if colon and port.isdigit() else authority).strip(b"[]").lower()


def _is_within(host: bytes, domain: bytes) -> bool:
    """RFC 6265 §5.1.3."""
    if host == domain:
        return True
    return host.endswith(b"." + domain) and not _is_address(host)


def _is_address(host: bytes) -> bool:
    try:
        ip_address(host.decode("latin-1"))
    except ValueError:
        return False
    return True


_LOCATIONS = dict.fromkeys((b"location", b"content-location"), location_for_client)
_COOKIES = {b"set-cookie": cookie_for_client}
_PLACES: dict[tuple[bool, bool], dict[bytes, Callable[[bytes, View], bytes]]] = {
    (False, False): {},
    (True, False): {**_LOCATIONS},
    (False, True): {**_COOKIES},
    (True, True): {**_LOCATIONS, **_COOKIES},
}
