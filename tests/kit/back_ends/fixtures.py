"""Fixtures for tests of a proxy in front of the back ends; a module takes those that it wants."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import trustRootFromCertificates
from twisted.internet.threads import deferToThread
from twisted.web.client import BrowserLikePolicyForHTTPS

from tests.kit.back_ends.running import BACK_ENDS, BackEnd
from tests.kit.certificate import AUTHORITY
from tests.kit.harness import WatchedSite, patient, reactor
from upgrade_switch import UpgradePool
from upgrade_switch.proxy import UpgradeProxy

__all__ = ["back_end", "in_thread", "node", "proxies"]

TRUSTING = BrowserLikePolicyForHTTPS(trustRootFromCertificates([AUTHORITY]))


def in_thread(function: Any, *arguments: Any, **kwargs: Any) -> Any:
    """What blocks, while the reactor serves it."""
    return patient(deferToThread(function, *arguments, **kwargs))


@pytest.fixture(scope="module", params=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> Any:
    """Each of the back ends, one for a module's tests."""
    running = BackEnd(request.param)
    yield running
    running.end()


@pytest.fixture(scope="module")
def node() -> Any:
    """The back end of Node's, one for a module's tests."""
    running = BackEnd("node")
    yield running
    running.end()


@pytest_twisted.async_yield_fixture
async def proxies(listen: Any) -> Any:
    """
    ``await proxies(url, kind="tcp", **arguments)``: a listening site of that kind that is such a proxy.
    """
    pools: list[UpgradePool] = []

    async def start(url: Any, kind: str = "tcp", **arguments: Any) -> Any:
        pools.append(UpgradePool(reactor, lenient=arguments.get("lenient", False)))
        arguments.setdefault("policy", TRUSTING)
        return await listen(kind, WatchedSite(UpgradeProxy(url, reactor, pool=pools[-1], **arguments)))

    yield start
    for pool in pools:
        await patient(pool.closeCachedConnections())
