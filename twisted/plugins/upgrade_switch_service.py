"""
``twist upgrade-switch``, and ``twistd upgrade-switch``.
"""

from twisted.application.service import ServiceMaker

upgrade_switch_service = ServiceMaker(
    "upgrade_switch",
    "upgrade_switch.command.server.service",
    "HTTP Upgrade: one port, many protocols.",
    "upgrade-switch",
)
