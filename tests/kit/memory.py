"""Raw bytes to a site in memory, where it matters how a request is written."""

from __future__ import annotations

from typing import Any

from upgrade_switch.testing import Recording, Wire


class Raw(Recording):
    """A client of raw bytes."""

    def __init__(self, site: Any) -> None:
        super().__init__()
        self.wire = Wire(clock=site.reactor)
        site.doStart()
        self.wire.join(self, site.buildProtocol(self.wire.client.getHost()))

    def send(self, data: bytes) -> Raw:
        self.wire.client.write(data)
        self.wire.pump()
        return self

    @property
    def statuses(self) -> list[int]:
        """The status codes of all that has been answered, in their order."""
        parts = self.received.split(b"HTTP/1.1 ")[1:]
        return [int(part[:3]) for part in parts]

    @property
    def body(self) -> bytes:
        """What stands behind the last head."""
        return self.received.rpartition(b"\r\n\r\n")[2]


def ask(site: Any, target: str, method: str = "GET", **fields: str) -> Raw:
    """Send the head of a request, with these fields and no others."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return Raw(site).send("\r\n".join([*lines, "", ""]).encode())
