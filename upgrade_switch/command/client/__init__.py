"""
The subcommands that connect to a server: ``connect`` and ``forward``.
"""
