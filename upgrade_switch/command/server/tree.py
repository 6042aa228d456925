"""
The resource tree of ``upgrade-switch serve``: what its options put where.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.reflect import namedAny
from twisted.python.usage import UsageError
from twisted.web.pages import notFound
from twisted.web.resource import IResource, Resource

from ...errors import InvalidUpgrades
from ...observe.page import StatusResource
from ...observe.status import Status
from ...protocols._tunnel import TunnelFactory, tunnel
from ...server.resource import UpgradeResource
from .auth import Guarded, segments_of
from .echo import Echo
from .files import Files, is_hidden
from .page import FrontPage

if TYPE_CHECKING:
    from .options import ServeOptions

__all__ = ["build_prefaces", "build_site_upgrades", "build_tree"]


class _Directory(Resource):
    """Has nothing but what is put below it."""

    def render(self, request: Any) -> Any:
        return notFound().render(request)


def build_tree(reactor: Any, options: ServeOptions, status: Status) -> IResource:
    """
    :param status: what is shown where the options want a status page.
    :raises UsageError: where the options contradict one another.
    """
    _keep_secrets(options)
    upgrades = _upgrades(reactor, options)
    front = FrontPage(
        [(path, token) for path, known in upgrades.items() for token in known],
        list(options.prefaces),
        [*options.classes, *options.files, *([options.status] if options.status else [])],
    )
    resources: dict[str, IResource] = {}
    root: Resource = Resource()
    root.putChild(b"", front)
    for path, directory in options.files.items():
        if path == "/":
            # In place of the page, too.
            root = Files(directory)
        else:
            _claim(resources, "files", path, Files(directory))
    for path, name in options.classes.items():
        _claim(resources, "class", path, _made(name))
    for path, known in upgrades.items():
        if path == "/" and isinstance(root, Files):
            raise UsageError("--tunnel: / is --files' already")
        _claim(resources, "tunnel", path, UpgradeResource(known, front if path == "/" else None))
    if options.status:
        _claim(resources, "status", options.status, StatusResource(status))
    # Shorter paths first: what would lie below a resource is found out.
    for path in sorted(resources):
        _put(root, path, resources[path])
    if not isinstance(root, Files):
        _check_guards(options, resources)
    return Guarded(root, _checkers(options)) if options.checkers else root


def _keep_secrets(options: ServeOptions) -> None:
    """
    See to it that nobody can fetch the passwords.

    :raises UsageError: where their files are among those that are served.
    """
    for secret in options.password_files:
        for path, directory in options.files.items():
            file, folder = Path(secret).resolve(), Path(directory).resolve()
            if file.is_relative_to(folder) and not any(map(is_hidden, file.relative_to(folder).parts)):
                raise UsageError(f"--files {path}: {secret} is there, and would be served")


def _checkers(options: ServeOptions) -> dict[str, list[ICredentialsChecker]]:
    """
    Who may go where. A status page tells who is connected: where some paths want a password and none of
    them is above it, it wants one of theirs.
    """
    checkers = dict(options.checkers)
    if options.status:
        page = segments_of(options.status)
        if not any(page[: len(part)] == part for part in map(segments_of, checkers)):
            checkers[options.status] = [one for several in checkers.values() for one in several]
    return checkers


def _check_guards(options: ServeOptions, resources: Iterable[str]) -> None:
    """
    :raises UsageError: for a path of ``--auth`` at, below and above which there is nothing: what was
        meant would be open.
    """
    there = [segments_of(path) for path in resources]
    for path in options.checkers:
        guarded = segments_of(path)
        if not any(guarded[: len(one)] == one or one[: len(guarded)] == guarded for one in there):
            raise UsageError(f"--auth {path}: nothing is there; there are {', '.join(resources)}")


def _claim(resources: dict[str, IResource], option: str, path: str, resource: IResource) -> None:
    if path in resources:
        raise UsageError(f"--{option}: {path} is another resource's")
    resources[path] = resource


def build_site_upgrades(options: ServeOptions) -> dict[str, Any]:
    """
    The upgrades that belong to the connection.

    :raises UsageError: where what they need is not installed.
    """
    if not options["h2c"]:
        return {}
    try:
        from ...protocols._h2c import h2c
    except ImportError:
        raise UsageError("--h2c needs more: pip install 'upgrade_switch[http2]'") from None
    return {"h2c": h2c()}


def build_prefaces(reactor: Any, options: ServeOptions) -> dict[bytes, TunnelFactory]:
    """
    :raises UsageError: for what is no endpoint.
    """
    return {
        preface: TunnelFactory(reactor, _client_endpoint(reactor, endpoint))
        for preface, endpoint in options.prefaces.items()
    }


def _upgrades(reactor: Any, options: ServeOptions) -> dict[str, dict[str, Any]]:
    """What each path leads to, by token."""
    upgrades: dict[str, dict[str, Any]] = {}
    for path, token, endpoint in options.tunnels:
        known = upgrades.setdefault(path, {})
        if token.lower() in map(str.lower, known):
            raise UsageError(f"--tunnel: {path} has two tunnels for {token}")
        known[token] = _tunnel(token, _client_endpoint(reactor, endpoint), options.origins)
    if not upgrades:
        upgrades["/echo"] = {"echo": Factory.forProtocol(Echo)}
    return upgrades


def _made(name: str) -> IResource:
    """The resource of a class that is called by its name."""
    try:
        resource = namedAny(name)()
    except Exception as error:
        # Its module runs, and its constructor: whatever they raise.
        raise UsageError(f"--class {name}: {type(error).__name__}: {error}") from None
    if not IResource.providedBy(resource):
        raise UsageError(f"--class {name}: makes no resource (IResource): {resource!r}")
    return resource


def _tunnel(token: str, endpoint: IStreamClientEndpoint, origins: list[str]) -> Any:
    """A tunnel; for browsers, which speak nothing else, in WebSocket's binary messages."""
    if token.lower() != "websocket":
        return tunnel(endpoint)
    try:
        from ...protocols._websocket import SAME_ORIGIN, byte_stream
    except ImportError:
        raise UsageError("WebSockets need more: pip install 'upgrade_switch[websocket]'") from None
    try:
        return byte_stream(tunnel(endpoint), origins or SAME_ORIGIN)
    except InvalidUpgrades as error:
        raise UsageError(f"--origin: {error}") from None


def _put(root: Resource, path: str, resource: IResource) -> None:
    """Put a resource at a path, with the directories that it takes."""
    *above, last = map(unquote_to_bytes, path[1:].split("/"))
    parent = root
    for segment in above:
        child = parent.children.get(segment)
        if child is None:
            child = _directory_below(parent, segment)
            parent.putChild(segment, child)
        elif not isinstance(child, _Directory | Files):
            raise UsageError(f"{path} lies below another resource's path")
        parent = child
    if last in parent.children and path != "/":
        raise UsageError(f"{path} is another resource's path, too")
    parent.putChild(last, resource)


def _directory_below(parent: Resource, segment: bytes) -> Resource:
    """A directory for what is put below it; among files, one that has its own files, too."""
    name = os.fsdecode(segment)
    if isinstance(parent, Files) and not is_hidden(name):
        return Files(os.path.join(parent.path, name))
    return _Directory()


def _client_endpoint(reactor: Any, description: str) -> IStreamClientEndpoint:
    try:
        endpoint: IStreamClientEndpoint = clientFromString(reactor, description)
    except Exception as error:
        # Every parser raises what it likes: ValueError, TypeError, KeyError, OSError ...
        raise UsageError(
            f"not a client endpoint, as tcp:127.0.0.1:22 is: {description!r} ({error})"
        ) from None
    return endpoint
