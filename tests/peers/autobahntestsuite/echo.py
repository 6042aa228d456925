"""What both sides of the tests by autobahntestsuite have in common."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

from autobahn.exception import Disconnected
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)


class Echo:
    """Sends each message back; before one of autobahn's protocols among a class's bases."""

    def onMessage(self: Any, payload: bytes, isBinary: bool) -> None:
        # What follows a Close frame still comes here (cases 7.1.4 and 7.1.5).
        with suppress(Disconnected):
            self.sendMessage(payload, isBinary)


def log_errors() -> None:
    """Write errors to standard error, and nothing else: there are to be none."""
    errors = LogLevelFilterPredicate(LogLevel.error)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [errors])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
