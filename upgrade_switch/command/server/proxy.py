"""
``serve --proxy``: paths at which other HTTP servers answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from twisted.python.usage import UsageError
from twisted.web.resource import IResource, Resource

from ...errors import InvalidArgument, InvalidToken
from ...server.request import UpgradeRequest
from ..reactor import ICommandReactor
from .paths import is_path, tree_segments

if TYPE_CHECKING:
    from ...proxy import UpgradeProxy

__all__ = ["Mounted", "ProxyOption", "proxy_of_table", "proxy_of_words"]

_LISTS = ("tokens", "trusted")
_FLAGS = ("preserve-host", "rewrite-location", "rewrite-cookies", "lenient")
_SECONDS = ("connect-timeout", "response-timeout", "idle-timeout")
_TEXTS = ("sticky", "health", "ca")
_BYTES = ("max-body",)
_NAMES = (*_LISTS, *_FLAGS, *_SECONDS, *_BYTES, *_TEXTS)

_SETTING = re.compile(r"([A-Za-z-]+)=(.*)", re.DOTALL)

# A URL with a user in it. It is looked for before anything else, so that no message has the password.
_WITH_USER = re.compile(r"(?:[^/@]*://)?[^/@]+@")


class ProxyOption(NamedTuple):
    """What one ``--proxy`` says, or one table of the file with options."""

    path: str
    urls: Sequence[str]
    settings: Mapping[str, Any]
    """Arguments of ``UpgradeProxy``."""
    ca: str | None
    """A file with the certificates that ``https`` back ends may be vouched for by."""

    def build(self, reactor: ICommandReactor, strip_authorization: bool) -> UpgradeProxy:
        """
        The resource that passes requests on.

        :param strip_authorization: whether passwords are this server's, and not the back ends'.
        :raises UsageError: if a URL or a value is wrong.
        """
        # They are slow to import, and most servers are no proxies.
        from ...proxy import UpgradeProxy
        from ..certificates import default_trust, trust

        policy = trust(self.ca, f"--proxy {self.path}: ca") if self.ca else default_trust()
        try:
            return UpgradeProxy(
                list(self.urls),
                reactor,
                policy=policy,
                strip_authorization=strip_authorization,
                **self.settings,
            )
        except (InvalidArgument, InvalidToken) as error:
            # Parts of a password may be anywhere, in a malformed URL.
            is_secret = any("@" in url for url in self.urls)
            why = "a wrong URL, or value, which may have a password in it" if is_secret else error
            raise UsageError(f"--proxy {self.path}: {why}") from None


def proxy_of_words(value: str) -> ProxyOption:
    """
    Read ``PATH URL [URL ...] [NAME=VALUE ...]``.

    :raises UsageError: if it is something else. The message never has a password in it.
    """
    path, *words = value.split() or [""]
    urls = [word for word in words if not _SETTING.match(word)]
    if not is_path(path) or not urls:
        raise UsageError("--proxy needs '/PATH URL', and perhaps more URLs and NAME=VALUE")
    settings: dict[str, str | list[str]] = {}
    for match in filter(None, map(_SETTING.match, words)):
        name, text = match[1], match[2]
        if name in settings:
            raise UsageError(f"--proxy {path}: {name} is given twice")
        settings[name] = [part for part in text.split(",") if part] if name in _LISTS else text
    return _checked(path, urls, settings)


def proxy_of_table(table: Mapping[str, object]) -> ProxyOption:
    """
    Read a table of the file with options: ``path``, ``url`` (one or a list), and the same names.

    :raises UsageError: as :func:`proxy_of_words` does.
    """
    path, given = table.get("path"), table.get("url")
    if not isinstance(path, str) or not is_path(path):
        raise UsageError("a proxy needs path = '/PATH'")
    urls = _strings(given)
    if not urls:
        raise UsageError(f"the proxy at {path} needs url, a string or a list of strings")
    settings = {
        name: _as_written(path, name, value)
        for name, value in table.items()
        if name not in ("path", "url")
    }
    return _checked(path, urls, settings)


def _strings(value: object) -> list[str]:
    """A string, or a list of them, as a list; empty if it is something else."""
    values: list[Any] = value if isinstance(value, list) else [value]
    return values if all(isinstance(one, str) for one in values) else []


def _as_written(path: str, name: str, value: object) -> str | list[str]:
    """What TOML has, as the command line has it, where there are no types."""
    if name in _LISTS and (value == [] or _strings(value)):
        return _strings(value)
    if name in _FLAGS and isinstance(value, bool):
        return str(value).lower()
    if name in (*_SECONDS, *_BYTES) and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and name not in _FLAGS:
        return value
    if name not in _NAMES:
        raise _unknown(path, name)
    # The value is not shown, as those of other options are not.
    raise UsageError(f"--proxy {path}: {name} has a value of the wrong type")


def _checked(path: str, urls: Sequence[str], texts: Mapping[str, str | list[str]]) -> ProxyOption:
    path = path.rstrip("/") or "/"
    if any(map(_WITH_USER.match, urls)):
        raise UsageError(f"--proxy {path}: the URL of a back end has no user and no password")
    settings: dict[str, Any] = {}
    for name, text in texts.items():
        if name not in _NAMES:
            raise _unknown(path, name)
        settings[name.replace("-", "_")] = _value_of(path, name, text)
    ca = settings.pop("ca", None)
    return ProxyOption(path, urls, settings, ca)


def _unknown(path: str, name: str) -> UsageError:
    return UsageError(f"--proxy {path}: no option {name!r}; available: {', '.join(_NAMES)}")


def _value_of(path: str, name: str, text: str | list[str]) -> object:
    """The argument of ``UpgradeProxy`` that a text stands for."""
    if isinstance(text, list):
        return tuple(text)
    if name in _FLAGS:
        if text not in ("true", "false"):
            raise UsageError(f"--proxy {path}: {name} is true or false, not {text!r}")
        return text == "true"
    if name in _SECONDS or name in _BYTES:
        return _number(path, name, text)
    if not text:
        raise UsageError(f"--proxy {path}: {name} is empty")
    return text


def _number(path: str, name: str, text: str) -> float | int | None:
    try:
        number = float(text)
    except ValueError:
        number = -1
    is_whole = name in _BYTES
    if not (number >= 0 and isfinite(number)) or (is_whole and not number.is_integer()):
        kind = "a whole number of bytes" if is_whole else "a number of seconds"
        raise UsageError(f"--proxy {path}: {name} is {kind}, not {text!r}")
    if is_whole:
        return int(number) or None
    if name == "connect-timeout" and not number:
        raise UsageError(f"--proxy {path}: {name} must be more than 0")
    return number


class Mounted(Resource):
    """
    Stands in front of a site's tree: what is below the path of a proxy is the proxy's, except what is
    below a longer path, of another proxy or of the tree's.
    """

    def __init__(self, tree: IResource, paths: Iterable[str], proxies: Mapping[str, IResource]) -> None:
        """
        :param paths: those of the tree.
        :param proxies: the proxies, which are leaves, by their paths.
        """
        super().__init__()
        self._tree = tree
        mounts = [(tree_segments(path), proxies.get(path)) for path in (*paths, *proxies)]
        self._mounts = sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)

    def getChildWithDefault(self, path: bytes, request: UpgradeRequest) -> IResource:
        # twisted.web sets both before it looks a resource up.
        assert request.prepath is not None
        assert request.postpath is not None
        asked = [path, *request.postpath]
        for segments, proxy in self._mounts:
            if asked[: len(segments)] != segments:
                continue
            if proxy is None:
                break
            if request.authenticated_user is not None:
                # The password was for this server (--auth), even if it has asked at a part of the path.
                request.requestHeaders.removeHeader(b"authorization")
            request.prepath[-1:] = segments
            request.postpath = asked[len(segments) :]
            return proxy
        child: IResource = self._tree.getChildWithDefault(path, request)
        return child
