"""
As much of Docker's engine as ``docker exec`` needs: one container, ``box``, in which every command
sends its input back, says ``done`` behind its end, and exits with 7.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from upgrade_switch.interfaces import ITakesUpgrades

EXIT_CODE = 7

_ANSWERS: dict[str, Any] = {
    "/_ping": "OK",
    "/containers/box/json": {"Id": "box", "State": {"Running": True}, "Config": {"Tty": False}},
    "/containers/box/exec": {"Id": "1"},
    "/exec/1/json": {"ID": "1", "Running": False, "ExitCode": EXIT_CODE},
}


@implementer(IHalfCloseableProtocol)
class _Command(Protocol):
    """Standard output has the number 1, and each part of it says how long it is."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(b"\1\0\0\0" + len(data).to_bytes(4, "big") + data)

    def readConnectionLost(self) -> None:
        self.dataReceived(b"done\n")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


@implementer(ITakesUpgrades)
class Engine(Resource):
    """
    The engine's API.

    :ivar asked: what it has been asked for, with the version left out.
    :ivar started: what the exec has been started with.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.started: Any = None

    def takes(self, request: Any) -> bool:
        return "tcp" in request.offer

    def render(self, request: Any) -> Any:
        path = request.path.decode()
        if path.startswith("/v1."):
            path = path[path.index("/", 1) :]
        self.asked.append((request.method.decode(), path))
        request.setHeader("api-version", "1.41")
        if path == "/exec/1/start" and "tcp" in request.offer:
            self.started = json.load(request.content)
            request.setHeader("content-type", "application/vnd.docker.raw-stream")
            request.switch_to("tcp", _Command(), b"UPGRADED")
            return NOT_DONE_YET
        if path not in _ANSWERS:
            request.setResponseCode(404)
            return b'{"message": "there is no such thing"}'
        request.setResponseCode(201 if path == "/containers/box/exec" else 200)
        answer = _ANSWERS[path]
        request.setHeader("content-type", "application/json")
        return (answer if isinstance(answer, str) else json.dumps(answer)).encode()
