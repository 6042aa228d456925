"""
The resource tree of ``upgrade-switch serve``, as its options describe it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from twisted.cred.checkers import ICredentialsChecker
from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

from ..._extras import needs_extra
from ...interfaces import Acceptor, ConnectAcceptor, IBackEnd
from ...observe.page import StatusResource
from ...observe.status import Status
from ...protocols._connect import Destinations, connect_to
from ...protocols._tunnel import TunnelFactory
from ...protocols._udp.idle import IDLE_TIMEOUT
from ...protocols._udp.server import connect_udp
from ...server.resource import UpgradeResource
from ..options import needs_extra_for
from ..reactor import ICommandReactor
from .auth import Guarded, proxy_portal, segments_of
from .files import Files, is_hidden
from .options import ServeOptions
from .page import front_page
from .proxy import Mounted
from .ready import with_ready
from .upgrades import build_upgrades, check_guards_of_targets, client_endpoint

if TYPE_CHECKING:
    from ...proxy import UpgradeProxy

__all__ = [
    "build_connect",
    "build_prefaces",
    "build_proxies",
    "build_site_upgrades",
    "build_tree",
    "show_back_ends",
    "takes_http2_connect",
]


# RFC 9298 §3: where clients look for it.
_UDP = "/.well-known/masque/udp"


class _Directory(Resource):
    """A path that has nothing but the resources below it."""

    def render(self, request: Request) -> bytes:
        page: bytes = notFound().render(request)
        return page


def build_proxies(reactor: ICommandReactor, options: ServeOptions) -> dict[str, UpgradeProxy]:
    """
    The proxy at each path, which the caller closes when the server ends.

    :raises UsageError: if a URL or a value is wrong. None of them goes on then.
    """
    guarded = [segments_of(path) for path in options.checkers]

    def is_guarded(path: str) -> bool:
        segments = segments_of(path)
        return any(segments[: len(part)] == part for part in guarded)

    proxies: dict[str, UpgradeProxy] = {}
    try:
        for path, option in options.proxies.items():
            proxies[path] = option.build(reactor, strip_authorization=is_guarded(path))
    except UsageError:
        for proxy in proxies.values():
            proxy.close()
        raise
    return proxies


def build_tree(
    reactor: ICommandReactor,
    options: ServeOptions,
    status: Status,
    proxies: Mapping[str, UpgradeProxy],
) -> IResource:
    """
    The root resource of the site.

    :param status: what a status page shows, if the options ask for one.
    :param proxies: from :func:`build_proxies`.
    :raises UsageError: if the options contradict one another, or need something that is not installed.
    """
    _keep_secrets(options)
    upgrades = build_upgrades(reactor, options)
    front = front_page(options, upgrades)
    resources: dict[str, IResource] = {}
    root: Resource = Resource()
    root.putChild(b"", front)
    for path, directory in options.files.items():
        if path == "/":
            # It replaces the page, too.
            root = Files(directory)
        else:
            _claim(resources, "files", path, Files(directory))
    for path, name in options.classes.items():
        _claim(resources, "class", path, _kept(options, path, name))
    for path, known in upgrades.items():
        if path == "/" and isinstance(root, Files):
            raise UsageError("--tunnel: / is taken by --files")
        _claim(resources, "tunnel", path, UpgradeResource(known, front if path == "/" else None))
    if options.status:
        _claim(resources, "status", options.status, StatusResource(status))
    # Shorter paths first, so that a path below a resource is noticed.
    for path in sorted(resources):
        _put(root, path, resources[path])
    taken = [*resources, *(["/"] if isinstance(root, Files) else [])]
    for path in proxies:
        if path in taken:
            raise UsageError(f"--proxy: {path} is taken by another resource")
    check_guards_of_targets(options)
    if not isinstance(root, Files):
        _check_guards(options, [*resources, *proxies])
    tree: IResource = Mounted(root, resources, proxies) if proxies else root
    if options.checkers:
        tree = Guarded(tree, _checkers(options))
    if options["udp"]:
        tree = _with_udp(reactor, options, tree, taken)
    if options.ready in (*taken, *proxies):
        raise UsageError(f"--ready: {options.ready} is taken by another resource")
    return with_ready(tree, options.ready)


def _with_udp(
    reactor: ICommandReactor, options: ServeOptions, tree: IResource, taken: Collection[str]
) -> IResource:
    """
    The tree with connect-udp in it, which has its own way to ask for passwords: a proxy's, as for
    CONNECT.
    """
    for path in taken:
        if f"{path}/".startswith(f"{_UDP}/"):
            raise UsageError(f"--udp: {_UDP} is taken by another resource")
    acceptor = connect_udp(
        Destinations(*options.connect_to),
        reactor,
        portal=proxy_portal(options.checkers),
        idle_timeout=max(options.idle_timeout or 0, IDLE_TIMEOUT),
    )
    return Mounted(tree, (), {_UDP: UpgradeResource({"connect-udp": acceptor}, optimistic="refuse")})


def show_back_ends(status: Status, proxies: Mapping[str, UpgradeProxy]) -> None:
    """Have the status page show the back ends of these proxies."""
    for path, proxy in proxies.items():
        status.show_back_ends(path, partial(_back_ends_of, proxy))


def _back_ends_of(proxy: UpgradeProxy) -> Sequence[IBackEnd]:
    return proxy.back_ends


def _keep_secrets(options: ServeOptions) -> None:
    """
    Make sure that no client can fetch passwords, or the names of targets.

    :raises UsageError: if a file that has some is among the files that are served.
    """
    for secret in options.secret_files:
        for path, directory in options.files.items():
            file, folder = Path(secret).resolve(), Path(directory).resolve()
            if file.is_relative_to(folder) and not any(map(is_hidden, file.relative_to(folder).parts)):
                raise UsageError(f"--files {path}: {secret} is in that directory, and would be served")


def _checkers(options: ServeOptions) -> dict[str, list[ICredentialsChecker]]:
    """
    The checkers of each path. A status page reveals who is connected: if --auth protects some paths,
    but not this one, the page requires a password of any of them.
    """
    checkers = dict(options.checkers)
    if options.status:
        page = segments_of(options.status)
        if not any(page[: len(part)] == part for part in map(segments_of, checkers)):
            checkers[options.status] = [one for several in checkers.values() for one in several]
    return checkers


def _check_guards(options: ServeOptions, resources: Iterable[str]) -> None:
    """
    :raises UsageError: if a path of ``--auth`` has no resource at, below or above it. It is probably
        misspelled, and what it should protect would be open.
    """
    available = [segments_of(path) for path in resources]
    for path in options.checkers:
        guarded = segments_of(path)
        if not any(guarded[: len(one)] == one or one[: len(guarded)] == guarded for one in available):
            raise UsageError(f"--auth: no resource at {path}; available: {', '.join(resources)}")


def _claim(resources: dict[str, IResource], option: str, path: str, resource: IResource) -> None:
    if path in resources:
        raise UsageError(f"--{option}: {path} is taken by another resource")
    resources[path] = resource


def build_site_upgrades(options: ServeOptions) -> dict[str, Acceptor]:
    """
    The upgrades that do not depend on a resource.

    :raises UsageError: if an extra that they need is not installed.
    """
    if not options["h2c"]:
        return {}
    with needs_extra_for("--h2c needs"):
        from ...protocols._h2c import h2c
    return {"h2c": h2c()}


def takes_http2_connect(options: ServeOptions) -> bool:
    """
    Whether streams of HTTP/2 may switch.

    :raises UsageError: if the extra that this needs is not installed.
    """
    if options["http2-connect"]:
        with needs_extra_for("--http2-connect needs"), needs_extra("http2"):
            from ...server import http2  # noqa: F401 - whether it is there
    return bool(options["http2-connect"])


def build_connect(reactor: ICommandReactor, options: ServeOptions) -> ConnectAcceptor | None:
    """
    The acceptor of CONNECTs.

    :return: None if the site is no proxy.
    :raises UsageError: if passwords are required for some paths only.
    """
    if not options.connect_to:
        return None
    return connect_to(
        Destinations(*options.connect_to),
        reactor,
        portal=proxy_portal(options.checkers),
        idle_timeout=options.idle_timeout or None,
        forgive_truncation=bool(options["forgive-truncation"]),
    )


def build_prefaces(reactor: ICommandReactor, options: ServeOptions) -> dict[bytes, TunnelFactory]:
    """
    The tunnel of each preface.

    :raises UsageError: if an endpoint string is wrong.
    """
    return {
        preface: TunnelFactory(
            reactor,
            client_endpoint(reactor, endpoint),
            idle_timeout=options.idle_timeout or None,
            forgive_truncation=bool(options["forgive-truncation"]),
        )
        for preface, endpoint in options.prefaces.items()
    }


def _kept(options: ServeOptions, path: str, name: str) -> IResource:
    """The resource that a class has made for a path, or makes now."""
    if (path, name) not in options.made:
        options.made[path, name] = _made(name)
    return options.made[path, name]


def _made(name: str) -> IResource:
    """The resource that a class makes, which is named ``module.Class``."""
    try:
        resource = namedAny(name)()
    except (Exception, SystemExit) as error:
        # SystemExit: a module that does not find what it needs must not end a server that runs.
        # Importing it runs its module, and calling it its constructor: they can raise anything.
        raise UsageError(f"--class {name}: {type(error).__name__}: {error}") from None
    if not IResource.providedBy(resource):
        raise UsageError(f"--class {name}: not a resource (IResource): {resource!r}")
    return resource


def _put(root: Resource, path: str, resource: IResource) -> None:
    """Put a resource at a path, and make the directories above it."""
    *above, last = map(unquote_to_bytes, path[1:].split("/"))
    parent = root
    for segment in above:
        child = parent.children.get(segment)
        if child is None:
            child = _directory_below(parent, segment)
            parent.putChild(segment, child)
        elif not isinstance(child, _Directory | Files):
            raise UsageError(f"{path} is below the path of another resource")
        parent = child
    if last in parent.children and path != "/":
        raise UsageError(f"{path} is taken by another resource")
    parent.putChild(last, resource)


def _directory_below(parent: Resource, segment: bytes) -> Resource:
    """A directory for the resources below it; inside a tree of files, it has its own files, too."""
    name = os.fsdecode(segment)
    if isinstance(parent, Files) and not is_hidden(name):
        return Files(os.path.join(parent.path, name))
    return _Directory()
