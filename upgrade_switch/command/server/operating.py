"""
The options of ``serve`` for those who operate it.
"""

from __future__ import annotations

from twisted.python.usage import UsageError

from ..options import CommandOptions
from .paths import is_path

__all__ = ["OperatingOptions"]


class OperatingOptions(CommandOptions):
    """How a server is run. An attribute is None if its option was not given."""

    def __init__(self) -> None:
        super().__init__()
        self.ready: str | None = None

    def opt_ready(self, path: str) -> None:
        """
        PATH: answer 200 there, and 503 while the server shuts down, for load balancers. It needs no
        password, whatever --auth protects.
        """
        if not is_path(path) or not path.strip("/"):
            raise UsageError(f"--ready needs a /PATH, not {path!r}")
        self.ready = path.rstrip("/")
