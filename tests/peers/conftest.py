"""Other programs' work is not seen here: it is waited for longer."""

from __future__ import annotations

import pytest

from tests.kit.waiting import Stillness


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stillness, "seconds", 30)
