"""
A reverse proxy that lets WebSockets through.

    python examples/reverse_proxy.py http://127.0.0.1:3000/ tcp:8080:interface=127.0.0.1
"""

import sys

from twisted.internet import endpoints, task
from twisted.internet.defer import Deferred

from upgrade_switch import UpgradeSite
from upgrade_switch.proxy import UpgradeProxy


async def main(reactor, url, description="tcp:8080:interface=127.0.0.1"):
    site = UpgradeSite(UpgradeProxy(url, reactor))
    port = await endpoints.serverFromString(reactor, description).listen(site)
    print(f"listening on {port.getHost()}", flush=True)
    await Deferred()  # forever


task.react(lambda reactor: Deferred.fromCoroutine(main(reactor, *sys.argv[1:])))
