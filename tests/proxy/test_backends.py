"""
The servers behind a proxy: their URLs, and the choice among them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.web.client import BrowserLikePolicyForHTTPS
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from upgrade_switch._twisted import endpoint_text
from upgrade_switch.errors import InvalidArgument
from upgrade_switch.proxy import backends
from upgrade_switch.proxy.backends import BackEnd, BackEnds, Exchange
from upgrade_switch.proxy.forwarded import Client

V6 = ("[2001:db8::1]:81", "", ("http", "2001:db8::1", 81))
IDN = ("xn--bcher-kva.example", "", ("http", "xn--bcher-kva.example", 80))


@pytest.mark.parametrize(
    ("given", "url", "authority", "base", "key"),
    [
        ("http://h", "http://h", "h", "", ("http", "h", 80)),
        ("http://h/", "http://h", "h", "", ("http", "h", 80)),
        ("HTTP://Host:80/", "http://host", "host", "", ("http", "host", 80)),
        ("http://h:8080/base", "http://h:8080/base", "h:8080", "/base", ("http", "h", 8080)),
        ("http://h:/a/b/", "http://h/a/b/", "h", "/a/b/", ("http", "h", 80)),
        ("https://h", "https://h", "h", "", ("https", "h", 443)),
        ("https://h:80/x", "https://h:80/x", "h:80", "/x", ("https", "h", 80)),
        ("http://[::1]:80", "http://[::1]", "[::1]", "", ("http", "::1", 80)),
        ("http://[2001:DB8::0:1]:81", "http://[2001:db8::1]:81", *V6),
        ("http://Bücher.example/", "http://xn--bcher-kva.example", *IDN),
        ("http://h/%2f;a=b/c", "http://h/%2f;a=b/c", "h", "/%2f;a=b/c", ("http", "h", 80)),
        ("unix:/run/a.sock", "unix:/run/a.sock", "localhost", "", ("unix", "/run/a.sock", 0)),
        ("unix:/run/a.sock:/", "unix:/run/a.sock", "localhost", "", ("unix", "/run/a.sock", 0)),
        ("unix:/r b:/base/", "unix:/r b:/base/", "localhost", "/base/", ("unix", "/r b", 0)),
        ("unix://x?y", "unix://x?y", "localhost", "", ("unix", "//x?y", 0)),
    ],
)
def test_url(given: str, url: str, authority: str, base: str, key: tuple[str, str, int]) -> None:
    """A URL says where a back end is; each has one spelling."""
    for each in (given, given.encode(), url):
        back_end = BackEnd(each)
        assert back_end.url == url
        assert (back_end.authority, back_end.base) == (authority.encode(), base.encode())
        assert back_end.key == key
        assert back_end.is_secure is url.startswith("https")


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "h",
        "h:8080",
        "/path",
        "ftp://h",
        "ws://h",
        "http:h",
        "http://",
        "http:///x",
        "http://h:0",
        "http://h:65536",
        "http://h:x",
        "http://h?x",
        "http://h/?",
        "http://h/#",
        "http://user:geheim@h",
        "http://::1",
        "http://[::1%25eth0]/",
        "http://a b",
        "http://h/a b",
        "http://h/ü",
        "http://h\n",
        "http://h/..",
        "http://h/a/../b",
        "http://h/./b",
        "http://h/%2E%2e/b",
        "unix:",
        "unix:run/app.sock",
        "unix:/run/app.sock:base",
        "unix:/run/app.sock:",
        "unix:/run/app.sock:/base?x",
        "unix:/run/app.sock:/base#x",
        "unix:/run/app.sock:/../x",
        "unix:/run/\0x",
        b"http://\xff",
        None,
        7,
    ],
)
def test_no_url(bad: Any) -> None:
    """What is no URL of a back end is refused, and a password is not repeated."""
    with pytest.raises(InvalidArgument) as raised:
        BackEnd(bad)
    assert "geheim" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:Passing HostnameEndpoint a reactor")
def test_endpoints() -> None:
    """A back end is connected to by name, by its address, or through a socket."""
    reactor = MemoryReactorClock()
    named = BackEnd("http://h:8080/x").endpoint(reactor)
    assert isinstance(named, HostnameEndpoint)
    assert endpoint_text(named) == "<HostnameEndpoint h:8080>"
    for host in ("[::1]", "192.0.2.1"):
        by_address = BackEnd(f"http://{host}:8080/x").endpoint(reactor)
        assert isinstance(by_address, TCP4ClientEndpoint | TCP6ClientEndpoint)
        assert endpoint_text(by_address) == f"{host}:8080"
    unix = BackEnd("unix:/run/app.sock:/x").endpoint(reactor)
    assert isinstance(unix, UNIXClientEndpoint)
    assert endpoint_text(unix) == "/run/app.sock"


@pytest.mark.filterwarnings("ignore:Passing HostnameEndpoint a reactor")
def test_endpoint_is_kept() -> None:
    """An endpoint is made once, for one reactor and one time-out."""
    back_end, reactor = BackEnd("http://h"), MemoryReactorClock()
    kept = back_end.endpoint(reactor, 5)
    assert back_end.endpoint(reactor, 5) is kept
    assert back_end.endpoint(reactor, 6) is not kept
    assert back_end.endpoint(MemoryReactorClock(), 6) is not kept


@pytest.mark.filterwarnings("ignore:Passing HostnameEndpoint a reactor")
def test_secure_endpoint() -> None:
    """Over TLS, a policy decides about certificates: asked once, for the name in the URL."""
    asked: list[tuple[bytes, int]] = []

    @implementer(IPolicyForHTTPS)
    class Policy:
        def creatorForNetloc(self, hostname: bytes, port: int) -> Any:
            asked.append((hostname, port))
            return BrowserLikePolicyForHTTPS().creatorForNetloc(hostname, port)

    back_end = BackEnd("https://h:8443/x", Policy())
    reactor = MemoryReactorClock()
    for _ in range(2):
        assert endpoint_text(back_end.endpoint(reactor)) == "<HostnameEndpoint h:8443>"
    assert asked == [(b"h", 8443)]
    assert not isinstance(BackEnd("https://192.0.2.1").endpoint(reactor), HostnameEndpoint)


# The choice.

A, B, C = (f"http://{name}:8080" for name in "abc")


class Choice:
    """Back ends on a clock, and what goes on at them."""

    def __init__(self, *urls: str, **more: Any) -> None:
        self.clock = Clock()
        self.back_ends = BackEnds(urls or (A, B, C), self.clock, **more)

    def __getitem__(self, url: str) -> BackEnd:
        return next(each for each in self.back_ends if each.url == url)

    def begin(self, **more: Any) -> Exchange:
        exchange = self.back_ends.choose(**more)
        assert exchange is not None
        return exchange

    def at(self, url: str) -> Exchange:
        """A request at one of them."""
        return self.begin(avoid=[each for each in self.back_ends if each.url != url])

    def chosen(self, count: int, **more: Any) -> list[str]:
        """Where so many requests go, one after the other."""
        urls = []
        for _ in range(count):
            exchange = self.begin(**more)
            exchange.answered()
            exchange.ended()
            urls.append(exchange.back_end.url)
        return urls

    def fail(self, url: str, times: int = 1, **more: Any) -> None:
        for _ in range(times):
            exchange = self.at(url)
            exchange.failed(**more)
            exchange.ended()


def test_round_robin() -> None:
    """Idle back ends take turns."""
    assert Choice().chosen(7) == [A, B, C, A, B, C, A]


def test_fewest() -> None:
    """A request goes where the fewest are, and a switched connection is one for as long as it lives."""
    choice = Choice(A, B)
    long = choice.begin()
    long.switched()
    assert long.back_end.url == A
    assert choice.chosen(3) == [B, B, B]
    other = choice.begin()
    assert other.back_end.url == B
    third = choice.begin()
    assert third.back_end.url == A
    long.ended()
    long.ended()
    third.ended()
    assert choice.chosen(2) == [A, A]
    assert (choice[A].active, choice[A].requests, choice[A].upgrades) == (0, 4, 1)


def test_three_failures() -> None:
    """Three failures in a row eject a back end, for a second, then for two, up to half a minute."""
    choice = Choice(A, B)
    choice.fail(A, 2)
    choice.at(A).answered()
    choice.fail(A, 2)
    assert choice[A].state == "up"
    choice.fail(A)
    assert choice[A].state == "ejected"
    for seconds in (1, 2, 4, 8, 16, 30, 30, 30):
        assert choice[A].retry_at == choice.clock.seconds() + seconds
        assert set(choice.chosen(4)) == {B}
        choice.clock.advance(seconds - 0.1)
        assert set(choice.chosen(4)) == {B}
        choice.clock.advance(0.1)
        choice.fail(A)
    assert choice[A].errors == 5 + 8
    choice.clock.advance(30)
    choice.at(A).answered()
    assert choice[A].state == "up"
    choice.fail(A, 3)
    assert choice[A].retry_at == choice.clock.seconds() + 1


def test_refused() -> None:
    """One refused connection is enough while there are others."""
    choice = Choice(A, B)
    choice.fail(A, refused=True)
    assert choice[A].state == "ejected"
    choice.fail(B, 2, refused=True)
    assert choice[B].state == "up"
    choice.fail(B, refused=True)
    assert choice[B].state == "ejected"


def test_one_tries() -> None:
    """Only one request at a time tries a back end that was ejected, however busy the others are."""
    choice = Choice(A, B)
    choice.fail(A, 3)
    for _ in range(5):
        assert choice.begin().back_end.url == B
    choice.clock.advance(1)
    trial = choice.begin()
    assert trial.back_end.url == A
    assert set(choice.chosen(4)) == {B}
    trial.ended()
    trial = choice.begin()
    assert trial.back_end.url == A
    trial.answered()
    assert choice[A].state == "up"
    assert choice.begin().back_end.url == A


def test_all_ejected() -> None:
    """If all are ejected, the one that comes back first is tried anyway, by every request."""
    choice = Choice(A, B)
    choice.fail(B, 3)
    choice.clock.advance(0.5)
    choice.fail(A, 3)
    trials = [choice.begin(), choice.begin()]
    assert {trial.back_end.url for trial in trials} == {B}
    for trial in trials:
        trial.failed()
    assert choice[B].retry_at == choice.clock.seconds() + 2
    assert choice.begin().back_end.url == A


def test_earlier_requests_say_nothing() -> None:
    """What began before a back end was ejected neither prolongs that nor ends it."""
    choice = Choice(A, B)
    earlier = [choice.at(A) for _ in range(5)]
    for exchange in earlier[:4]:
        exchange.failed()
    assert choice[A].retry_at == 1
    earlier[4].answered()
    assert choice[A].state == "ejected"
    for exchange in earlier:
        exchange.ended()
    assert choice[A].active == 0
    assert choice[A].errors == 4


def test_failure_behind_the_head() -> None:
    """An answer that is cut off is an error; the back end is there, though."""
    choice = Choice(A, B)
    for _ in range(5):
        exchange = choice.at(A)
        exchange.answered()
        exchange.failed()
        exchange.failed()
        exchange.ended()
        exchange.failed()
    assert (choice[A].errors, choice[A].state) == (5, "up")


def test_avoid() -> None:
    """A request goes to no back end twice; there may be none left."""
    choice = Choice(A, B)
    first = choice.begin()
    second = choice.begin(avoid=[first.back_end])
    assert {first.back_end.url, second.back_end.url} == {A, B}
    assert choice.back_ends.choose(avoid=[first.back_end, second.back_end]) is None


def test_health() -> None:
    """A back end that is down gets nothing; a check that finds it up ends that, but no ejection."""
    choice = Choice(A, B)
    choice[A].mark_down()
    assert choice[A].state == "down"
    assert set(choice.chosen(3)) == {B}
    choice[B].mark_down()
    assert choice.back_ends.choose() is None
    choice[A].mark_up()
    assert choice.chosen(2) == [A, A]
    choice.fail(A, 3)
    choice[A].mark_up()
    assert choice[A].state == "ejected"
    choice[A].mark_down()
    choice[A].mark_up()
    assert choice[A].state == "up"


def test_latency() -> None:
    """A moving average of the milliseconds until the head of an answer."""
    choice = Choice(A)
    assert choice[A].latency is None
    for seconds, average in ((0.1, 100), (0.2, 120), (0.12, 120)):
        exchange = choice.begin()
        choice.clock.advance(seconds)
        exchange.answered()
        choice.clock.advance(5)
        exchange.answered()
        exchange.ended()
        assert choice[A].latency == pytest.approx(average)


def test_replace() -> None:
    """Those that stay are the same; those that go keep what goes on there; new ones get their turn."""
    choice = Choice(A, B)
    going = choice.at(A)
    stays = choice[B]
    choice.chosen(2)
    choice.back_ends.replace([B + "/", C])
    assert [each.url for each in choice.back_ends] == [B, C]
    assert choice[B] is stays
    assert choice.chosen(2) == [C, B]
    going.failed()
    going.ended()
    assert going.back_end.active == 0
    for bad in ([], [A, "nonsense"], [A, A + "/"], None, 7):
        with pytest.raises(InvalidArgument):
            choice.back_ends.replace(bad)  # type: ignore[arg-type]  # that is the point
    assert [each.url for each in choice.back_ends] == [B, C]
    assert len(choice.back_ends) == 2
    choice.back_ends.replace(A)
    assert choice.chosen(1) == [A]


# What keeps a client at one back end.

KEYS = [f"192.0.2.{number}" for number in range(100)]


def by_address(choice: Choice) -> dict[str, str]:
    keys = {address: choice.back_ends.key_of(Client(address), []) for address in KEYS}
    return {address: choice.chosen(1, key=key)[0] for address, key in keys.items()}


def test_sticky_address() -> None:
    """An address stays at its back end; if that goes, only its own addresses go elsewhere."""
    choice = Choice(sticky="address")
    before = by_address(choice)
    assert by_address(choice) == before == by_address(Choice(C, B, A, sticky="address"))
    assert all(count > 15 for count in Counter(before.values()).values())
    choice.fail(A, 3)
    during = by_address(choice)
    assert {key: url for key, url in during.items() if before[key] != A} == {
        key: url for key, url in before.items() if url != A
    }
    assert set(during.values()) == {B, C}
    choice.clock.advance(1)
    assert by_address(choice) == before
    assert choice.back_ends.key_of(Client(None), []) is None


@pytest.mark.parametrize(
    ("cookies", "key"),
    [
        ([], None),
        ([b"a=1"], None),
        ([b"a=1; sid=x=y;b=2"], b"x=y"),
        ([b"a=1", b"sid = x "], b"x"),
        ([b"sid="], None),
        ([b"sid"], None),
        ([b"SID=x; xsid=y"], None),
    ],
)
def test_cookie_key(cookies: list[bytes], key: bytes | None) -> None:
    """The value of the cookie is what counts, if it has any."""
    fields = [(b"COOKIE", cookie) for cookie in cookies]
    assert Choice(sticky="sid").back_ends.key_of(Client("192.0.2.1"), fields) == key
    assert Choice().back_ends.key_of(Client("192.0.2.1"), fields) is None


def test_sticky_cookie() -> None:
    """A session stays where it began: there the cookie was set."""
    choice = Choice(sticky="sid")
    for number in range(30):
        exchange = choice.begin(key=None)
        value = b"session-%d" % number
        choice.back_ends.learn([(b"set-cookie", b"sid=" + value + b"; Path=/")], exchange.back_end)
        exchange.ended()
        assert set(choice.chosen(3, key=value)) == {exchange.back_end.url}
    assert choice.chosen(3) == [A, B, C]


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many sessions are remembered; the others are where their keys say."""
    monkeypatch.setattr(backends, "MOST_REMEMBERED", 2)
    choice = Choice(sticky="sid")
    unmoved = {key: choice.chosen(1, key=key)[0] for key in (b"%d" % n for n in range(9))}
    moved = {key: next(url for url in (A, B, C) if url != unmoved[key]) for key in unmoved}
    for key, url in moved.items():
        choice.back_ends.learn([(b"Set-Cookie", b"sid=" + key)], choice[url])
    *old, one, two = unmoved
    assert {key: choice.chosen(1, key=key)[0] for key in old} == {key: unmoved[key] for key in old}
    assert [choice.chosen(1, key=key)[0] for key in (one, two)] == [moved[one], moved[two]]
    choice.back_ends.learn([(b"Set-Cookie", b"sid=" + one)], choice[unmoved[one]])
    assert choice.chosen(1, key=one) == [unmoved[one]]


@pytest.mark.parametrize("sticky", ["", "a b", "a=b", 7, b"sid"])
def test_bad_sticky(sticky: Any) -> None:
    """What is no name of a cookie is refused."""
    with pytest.raises(InvalidArgument):
        BackEnds(A, Clock(), sticky)


class Anything(RuleBasedStateMachine):
    """Requests that begin, succeed, fail and end in any order, on back ends that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.back_ends = BackEnds([A, B, C], self.clock, "sid")
        self.exchanges: list[Exchange] = []

    @rule(key=st.sampled_from([None, b"x", b"y"]), avoided=st.integers(0, 2))
    def begin(self, key: bytes | None, avoided: int) -> None:
        exchange = self.back_ends.choose(key, list(self.back_ends)[:avoided])
        if exchange is None:
            left = list(self.back_ends)[avoided:]
            assert all(each.is_down for each in left)
        else:
            self.exchanges.append(exchange)
            assert not exchange.back_end.is_down

    @precondition(lambda self: self.exchanges)
    @rule(data=st.data(), what=st.sampled_from(["answered", "switched", "failed", "ended"]))
    def go_on(self, data: st.DataObject, what: str) -> None:
        exchange = data.draw(st.sampled_from(self.exchanges))
        getattr(exchange, what)()
        if what == "ended":
            self.exchanges.remove(exchange)

    @rule(seconds=st.sampled_from([0.5, 1, 30]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(urls=st.sets(st.sampled_from([A, B, C]), min_size=1))
    def replace(self, urls: set[str]) -> None:
        self.back_ends.replace(sorted(urls))

    @rule(data=st.data(), up=st.booleans())
    def check(self, data: st.DataObject, up: bool) -> None:
        back_end = data.draw(st.sampled_from(list(self.back_ends)))
        (back_end.mark_up if up else back_end.mark_down)()

    @invariant()
    def counts(self) -> None:
        """Each back end has the requests that have not ended, and its state is one of three."""
        active = Counter(each.back_end for each in self.exchanges)
        for back_end in self.back_ends:
            assert back_end.active == active[back_end]
            assert (back_end.state == "up") == (back_end.retry_at is None and not back_end.is_down)

    def teardown(self) -> None:
        """Whatever has happened: when all is over, every back end that is not down is tried again."""
        for exchange in self.exchanges:
            exchange.ended()
        self.clock.advance(31)
        for back_end in self.back_ends:
            assert back_end.is_ready(self.clock.seconds())


def test_anything() -> None:
    """Whatever happens to requests and back ends, the states are the three that there are."""
    run_state_machine_as_test(Anything)
