"""
The client endpoint string ``upgrade:``, as in
``clientFromString(reactor, "upgrade:url=http\\\\://host/ssh:token=ssh")``.
"""

from upgrade_switch.client.endpoint import UpgradeEndpointParser

upgrade_endpoint = UpgradeEndpointParser()
