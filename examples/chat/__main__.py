"""
The chat by itself, alone or as one of several processes that a router joins::

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

from upgrade_switch import UpgradeSite

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
    site = UpgradeSite(root)
    listening = endpoints.serverFromString(reactor, options.listen).listen(site)
    listening.addCallback(lambda port: print(f"listening on {port.getHost()}", flush=True))
    # Those who are here go elsewhere at once, and not when their connection times out.
    reactor.addSystemEventTrigger("before", "shutdown", site.drain, 2)
    reactor.run()


if __name__ == "__main__":
    main()
