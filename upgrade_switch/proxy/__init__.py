"""
A reverse proxy that lets upgrades through: :class:`UpgradeProxy`.
"""

from .resource import UpgradeProxy

__all__ = ["UpgradeProxy"]
