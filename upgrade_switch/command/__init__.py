"""
The command ``upgrade-switch``: one module a subcommand.
"""

from .main import main

__all__ = ["main"]
