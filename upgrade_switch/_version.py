"""The package's version; its metadata take it from here."""

__all__ = ["__version__"]

__version__ = "0.1.0"
