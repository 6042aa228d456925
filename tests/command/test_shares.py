"""
How workers share a limit: the sum is never above it, and what is free gets to who needs it.
"""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from upgrade_switch.command.server.addresses import Addresses
from upgrade_switch.command.server.shares import Shares


class Worker:
    """A worker that switches connections, as far as it may; what it is told arrives later."""

    def __init__(self, shares: Shares) -> None:
        self.shares = shares
        self.used = self.granted = 0
        self.told: list[int] = []
        self.has_declined = False
        shares.join(self, self.told.append)

    def asks(self) -> bool:
        """Somebody wants to switch."""
        if self.used < self.granted:
            self.used += 1
            return True
        self.has_declined = True
        return False

    def ends(self) -> None:
        self.used = max(0, self.used - 1)

    def hears(self) -> None:
        """What it has been told arrives, and it says how it is."""
        while self.told:
            self.granted = max(self.told.pop(0), self.used)
            self.reports()

    def reports(self) -> None:
        if not self.told:
            declined, self.has_declined = self.has_declined, False
            self.shares.report(self, self.used, self.granted, declined)


def settle(*workers: Worker) -> None:
    """Until nobody has anything to say."""
    for worker in workers:
        worker.reports()
    for _ in range(20):
        for worker in workers:
            worker.hears()
        if not any(worker.told for worker in workers):
            return
    raise AssertionError("they never agree")


def test_fair() -> None:
    """Two workers under a flood have the same, and all of it; a third one gets what becomes free."""
    shares = Shares(100)
    one, two = Worker(shares), Worker(shares)
    settle(one, two)
    assert (one.granted, two.granted) == (50, 50)
    for _ in range(200):
        one.asks()
        two.asks()
    settle(one, two)
    assert (one.used, two.used) == (50, 50)
    three = Worker(shares)
    settle(one, two, three)
    assert three.granted == 0
    for _ in range(30):
        one.ends()
    three.asks()
    settle(one, two, three)
    assert three.granted >= 10
    assert one.granted + two.granted + three.granted <= 100


def test_all_of_it_for_one() -> None:
    """A worker that alone is asked gets all, to the last one."""
    shares = Shares(7)
    busy, idle = Worker(shares), Worker(shares)
    settle(busy, idle)
    for _ in range(20):
        busy.asks()
        settle(busy, idle)
    assert (busy.used, idle.granted) == (7, 0)
    busy.ends()
    assert not idle.asks()
    settle(busy, idle)
    assert idle.asks()


def test_retired() -> None:
    """What a retired worker frees is for the others; so is what one had that has ended."""
    shares = Shares(4)
    old = Worker(shares)
    settle(old)
    assert all(old.asks() for _ in range(4))
    new = Worker(shares)
    shares.retire(old)
    settle(old, new)
    assert new.granted == 0
    old.ends()
    settle(old, new)
    old.hears()
    new.asks()
    settle(old, new)
    assert (old.granted, new.granted) == (3, 1)
    shares.leave(old)
    settle(new)
    new.asks()
    settle(new)
    assert new.granted == 4


ACTIONS: dict[str, Callable[[Worker], object]] = {
    "asks": Worker.asks,
    "ends": Worker.ends,
    "hears": Worker.hears,
    "reports": Worker.reports,
}


@given(
    most=st.integers(0, 12),
    steps=st.lists(
        st.tuples(st.sampled_from([*ACTIONS, "join", "retire", "leave"]), st.integers(min_value=0)),
        max_size=80,
    ),
)
def test_never_more(most: int, steps: list[tuple[str, int]]) -> None:
    """Whatever comes in whatever order, there are never more than the limit, and they agree."""
    shares = Shares(most)
    workers = [Worker(shares)]
    for action, number in steps:
        worker = workers[number % len(workers)]
        if action == "join":
            workers.append(Worker(shares))
        elif action == "retire":
            shares.retire(worker)
        elif action == "leave":
            if len(workers) > 1:
                workers.remove(worker)
                shares.leave(worker)
        else:
            ACTIONS[action](worker)
        assert sum(each.used for each in workers) <= most
        assert sum(each.granted for each in workers) <= most
    settle(*workers)


def test_addresses() -> None:
    """Each worker is told what the others have of an address; what a dead one had is nobody's."""
    addresses = Addresses()
    addresses.join("one")
    addresses.report("one", {"a": 2, "b": 1})
    addresses.join("two")
    assert addresses.of_others("one") == {}
    assert addresses.of_others("two") == {"a": 2, "b": 1}
    addresses.report("two", {"a": 3})
    addresses.report("one", {"b": 0})
    asked = ["a", "b"]
    assert addresses.elsewhere("one", asked) == {"a": 3, "b": 0}
    assert addresses.elsewhere("two", asked) == {"a": 2, "b": 0}
    assert addresses.leave("one") == ["a"]
    assert addresses.elsewhere("two", asked) == {"a": 0, "b": 0}
    assert addresses.leave("never there") == []
