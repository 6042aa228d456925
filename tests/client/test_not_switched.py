"""
What ``switched_connection`` says of a response that is not a switch: the server refused, or the
request could not have switched.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
import treq
from twisted.web.client import Agent, ContentDecoderAgent, GzipDecoder
from twisted.web.http_headers import Headers

from tests.kit.harness import EchoTarget, factory_of, patient, reactor, site_of
from upgrade_switch import NotSwitched, UpgradePool, switched_connection

# Twisted's own client keeps the Upgrade field of an answer to itself.
NO_POOL = "the request did not go through an UpgradePool .*pool=UpgradePool.*: 426 Upgrade Required"
NO_FIELD = "the request had no Upgrade field, so it could not switch: 426 Upgrade Required"
REFUSED = r"the server did not switch protocols: 426 Upgrade Required \(it offers: echo\)"


async def ask(asking: str, url: str, pool: Any, headers: dict[str, str]) -> Any:
    """Ask by treq, or by an agent (with a decoder around it: its responses are wrapped)."""
    if asking == "treq":
        return await patient(treq.get(url, headers=headers, **({"pool": pool} if pool else {})))
    agent: Any = Agent(reactor, pool=pool)
    if asking == "decoder":
        agent = ContentDecoderAgent(agent, [(b"gzip", GzipDecoder)])
    fields = Headers({name: [value] for name, value in headers.items()})
    return await patient(agent.request(b"GET", url.encode(), fields))


@pytest.mark.parametrize("asking", ["treq", "agent", "decoder"])
@pytest.mark.parametrize(
    ("has_pool", "token", "message"),
    [(False, "echo", NO_POOL), (True, None, NO_FIELD), (True, "other", REFUSED)],
)
@pytest_twisted.ensureDeferred
async def test_why(asking: str, has_pool: bool, token: str | None, message: str, listen: Any) -> None:
    """The message names what was forgotten: the pool, or the field; else it is the server's refusal."""
    listening = await listen("tcp", site_of({"echo": factory_of(EchoTarget)[0]}))
    pool = UpgradePool(reactor, persistent=False) if has_pool else None
    headers = {} if token is None else {"Upgrade": token}
    response = await ask(asking, listening.url + "/u", pool, headers)
    with pytest.raises(NotSwitched, match=f"^{message}$") as caught:
        switched_connection(response)
    assert caught.value.response is response
    assert await patient(treq.content(response))


@pytest.mark.parametrize("asking", ["treq", "agent"])
@pytest_twisted.ensureDeferred
async def test_with_pool(asking: str, listen: Any) -> None:
    """With the pool and the field, the same request switches."""
    listening = await listen("tcp", site_of({"echo": factory_of(EchoTarget)[0]}))
    response = await ask(asking, listening.url + "/u", UpgradePool(reactor), {"Upgrade": "echo"})
    connection = switched_connection(response)
    assert str(connection.token) == "echo"
    connection.abort()
