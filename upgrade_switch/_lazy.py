"""
Public names that are imported when they are asked for (PEP 562).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

__all__ = ["lazy_names"]


def lazy_names(
    namespace: dict[str, object], modules: Mapping[str, str]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """
    Functions for a package: ``__getattr__, __dir__ = lazy_names(globals(), {"Name": "module"})``.

    :param namespace: the package's globals, which get each name the first time that it is asked for.
    :param modules: where each name is defined: a module, relative to the package.
    """
    package = str(namespace["__name__"])

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f".{modules[name]}", package), name)
        # From now on, Python finds it without asking this function.
        namespace[name] = value
        return value

    def names() -> list[str]:
        return sorted({*namespace, *modules})

    return get, names
