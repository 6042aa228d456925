"""``upgrade-switch probe``: what it asks, what it finds, and what strangers do to it."""
