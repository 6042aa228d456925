"""
A plugin for pytest: has the tests, and the commands that they run in forks, use asyncio's reactor, as
users of Scrapy and of asyncio's libraries do. ``make test-asyncio`` names it.

pytest-twisted alone would install it too late: what the tests import brings the default one.
"""

import os

from twisted.internet import asyncioreactor

os.environ["TESTS_ON_ASYNCIO"] = "1"
asyncioreactor.install()
