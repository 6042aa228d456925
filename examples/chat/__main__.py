"""
The chat by itself: alone, or as one of several processes that a router connects::

    python -m chat --listen tcp:8081:interface=127.0.0.1
    python -m chat --listen tcp:8082:interface=127.0.0.1 --router ws://127.0.0.1:9000/

in the folder ``examples``. ``python -m chat.cluster`` starts a whole cluster.
"""

import argparse
import sys

from twisted.internet import endpoints, reactor
from twisted.logger import (
    FilteringLogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    globalLogBeginner,
    textFileLogObserver,
)
from twisted.web.resource import Resource

from upgrade_switch import UpgradeService, UpgradeSite

from . import Chat
from .engine import Wamp


def main():
    parser = argparse.ArgumentParser(prog="python -m chat")
    parser.add_argument("--listen", default="tcp:8081:interface=127.0.0.1", metavar="ENDPOINT")
    parser.add_argument("--router", metavar="URL", help="a WAMP router's, ws://...")
    options = parser.parse_args()
    warnings = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    observer = FilteringLogObserver(textFileLogObserver(sys.stderr), [warnings])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
    root = Resource()
    root.putChild(b"chat", Chat(Wamp(reactor, options.router) if options.router else None))
    endpoint = endpoints.serverFromString(reactor, options.listen)
    # Tell the connected users to go elsewhere, rather than letting them find out.
    service = UpgradeService(endpoint, UpgradeSite(root), drain_timeout=2)
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()


if __name__ == "__main__":
    main()
