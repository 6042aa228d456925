"""
:class:`Translation`: what a request is for a back end, and its answer for the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..client.exchange_heads import written_head
from ..client.exchange_interfaces import ExchangeHead
from .fields import CHUNKED, AnswerFields, BadAnswer, answer_fields, request_fields
from .locations import View, answer_places, has_places
from .plain_heads import plain_lines
from .targets import BadTarget, target_of
from .websocket_key import HandshakeKey

if TYPE_CHECKING:
    from ..client.exchange_interfaces import Fields
    from ..negotiation import UpgradeToken
    from .backend import BackEnd
    from .settings import Asked, Settings

__all__ = ["Translation"]


class Translation:
    """
    Translates one request, and its answer, between a client and a back end.

    :ivar tokens: what the back end is asked to switch to; empty for plain HTTP.
    """

    def __init__(
        self, settings: Settings, method: bytes, asked: Asked, back_end: BackEnd, target: bytes
    ) -> None:
        """
        :param target: the request's target, for the back end.
        """
        self._settings = settings
        self._method = method
        self._asked = asked
        self._back_end = back_end
        self._target = target
        self._key: HandshakeKey | None = None
        self.tokens: tuple[UpgradeToken, ...] = ()
        self._head: ExchangeHead | None = None
        if asked.offer.tokens:
            self._head = self._new_head()

    @property
    def head(self) -> ExchangeHead:
        """The head of the request, for the back end."""
        if self._head is None:
            self._head = self._new_head()
        return self._head

    def _new_head(self) -> ExchangeHead:
        asked = self._asked
        fields, self.tokens, lines = request_fields(
            asked.fields,
            asked.client,
            self._settings.rules,
            method=self._method,
            length=asked.length,
            authority=self._back_end.authority,
            offer=asked.offer,
        )
        if asked.client.is_http2 and any(token.key[0] == "websocket" for token in self.tokens):
            self._key = HandshakeKey()
            fields, lines = self._key.added_to(fields), None
        return ExchangeHead(self._method, self._target, fields, lines)

    def plain_head(self) -> bytes | None:
        """The same as it is sent; None unless the request is plain."""
        asked, back_end = self._asked, self._back_end
        length = asked.length
        if asked.offer.tokens or length == CHUNKED:
            return None
        lines = plain_lines(
            asked.headers,
            asked.client,
            self._settings.rules,
            length=length,
            authority=back_end.authority,
        )
        return None if lines is None else written_head(self._method, self._target, lines)

    def _view(self) -> View:
        asked, back_end = self._asked, self._back_end
        return View(
            asked.client.scheme,
            asked.client.authority or b"",
            asked.mounted.mount,
            b"https" if back_end.is_secure else b"http",
            back_end.authority,
            back_end.base,
            # request_fields has it in front.
            self.head.fields[0][1],
        )

    @classmethod
    def of(
        cls, settings: Settings, method: bytes, asked: Asked, back_end: BackEnd
    ) -> Translation | BadTarget:
        """
        :return: the translation, unless the request must not get to the back end.
        """
        target = target_of(asked.mounted, back_end.base)
        if isinstance(target, BadTarget):
            return target
        return cls(settings, method, asked, back_end, target)

    def answer(self, code: int, fields: Fields, version: bytes = b"1.1") -> AnswerFields | BadAnswer:
        """
        The fields of an answer for the client.

        :param code: its status code.
        :param fields: as they came from the back end.
        :param version: in which version of HTTP.
        """
        settings = self._settings
        if code == 101 and self._key is not None:
            without_key = self._key.taken_from(fields)
            if isinstance(without_key, BadAnswer):
                return without_key
            fields = without_key
        passed = answer_fields(
            fields,
            self._asked.client,
            settings.rules,
            code=code,
            version=b"HTTP/" + version,
            asked=self.tokens,
        )
        if isinstance(passed, BadAnswer):
            return passed
        wanted = {"locations": settings.rewrite_location, "cookies": settings.rewrite_cookies}
        if not has_places(passed.fields, **wanted):
            return passed
        return passed._replace(fields=answer_places(passed.fields, self._view(), **wanted))
