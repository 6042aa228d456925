"""
Compression of messages (RFC 7692): what the two sides agree on.
"""

from __future__ import annotations

from collections.abc import Sequence

from websockets.exceptions import InvalidHeader, NegotiationError, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame
from websockets.headers import build_extension, parse_extension

from ...errors import InvalidResponse

__all__ = ["answer", "chosen", "offer"]

# Messages are short as a rule, and these windows compress them nearly as well as the largest, of which
# each connection would hold 300 KiB.
_WINDOW_BITS = 12
_COMPRESS_SETTINGS = {"memLevel": 5}

_SERVER = ServerPerMessageDeflateFactory(
    server_max_window_bits=_WINDOW_BITS,
    client_max_window_bits=_WINDOW_BITS,
    compress_settings=_COMPRESS_SETTINGS,
)
_CLIENT = ClientPerMessageDeflateFactory(
    server_max_window_bits=_WINDOW_BITS,
    client_max_window_bits=_WINDOW_BITS,
    compress_settings=_COMPRESS_SETTINGS,
)


class _Deflate(Extension):
    """
    The library's extension, except that anything after the end of the compressed data is an error.
    """

    name = PerMessageDeflate.name

    def __init__(self, deflate: PerMessageDeflate) -> None:
        self._deflate = deflate

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        decoded = self._deflate.decode(frame, max_size=max_size)
        # After a block that is marked as the last one, zlib would collect everything that comes, in
        # ``unused_data``, for as long as the connection lasts. If each message has its own decoder,
        # there is none between two messages.
        decoder = getattr(self._deflate, "decoder", None)
        if decoder is not None and decoder.eof:
            raise ProtocolError("the compressed data have ended")
        return decoded

    def encode(self, frame: Frame) -> Frame:
        return self._deflate.encode(frame)


def offer() -> bytes:
    """
    :return: a client's Sec-WebSocket-Extensions.
    """
    return build_extension([(_CLIENT.name, _CLIENT.get_request_params())]).encode("ascii")


def answer(lines: Sequence[bytes]) -> tuple[bytes, Extension] | None:
    """
    The first of a client's offers that will do (RFC 7692 §5).

    :param lines: its Sec-WebSocket-Extensions.
    :return: the server's Sec-WebSocket-Extensions, and the extension that it names; None if no offer
        will do.
    """
    try:
        # RFC 6455 §9.1: all lines together are one list.
        offers = parse_extension(b", ".join(lines).decode("latin-1")) if lines else []
    except InvalidHeader:
        return None
    for name, params in offers:
        if name != _SERVER.name:
            continue
        try:
            agreed, extension = _SERVER.process_request_params(params, [])
        except NegotiationError:
            continue
        return build_extension([(name, agreed)]).encode("ascii"), _Deflate(extension)
    return None


def chosen(lines: Sequence[bytes], is_offered: bool) -> Sequence[Extension]:
    """
    What a server has chosen.

    :param lines: its Sec-WebSocket-Extensions.
    :param is_offered: whether the client has sent an :func:`offer`.
    :raises InvalidResponse: if it was not offered.
    """
    extensions: list[Extension] = []
    try:
        for name, params in parse_extension(b", ".join(lines).decode("latin-1")) if lines else []:
            if not is_offered or name != _CLIENT.name:
                raise InvalidResponse(f"the server chose the extension {name!r}, not offered")
            extensions.append(_Deflate(_CLIENT.process_response_params(params, extensions)))
    except (InvalidHeader, NegotiationError) as error:
        raise InvalidResponse(f"the server's extensions are not valid: {error}") from None
    return extensions
