"""
The client endpoint strings ``upgrade:`` and ``connect:``, as in
``clientFromString(reactor, "upgrade:url=http\\\\://host/ssh:token=ssh")`` and
``clientFromString(reactor, "connect:proxy=http\\\\://proxy\\\\:3128:host=example.com:port=443")``.
"""

from upgrade_switch.client.connect import ConnectEndpointParser
from upgrade_switch.client.endpoint import UpgradeEndpointParser

upgrade_endpoint = UpgradeEndpointParser()
connect_endpoint = ConnectEndpointParser()
