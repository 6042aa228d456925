"""Sphinx's settings for docs/; ``make docs`` builds them into docs/_build."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "upgrade_switch"
author = "The upgrade_switch developers"
project_copyright = author
release = version = version_of("upgrade_switch")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "directives",  # our own: docs/directives.py
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# What is copied is what is typed: neither prompts nor answers.
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autoclass_content = "both"
# Twisted's docstrings are for its own documentation: a method without a docstring here is not shown.
autodoc_inherit_docstrings = False

# A signature that is longer has a line for each of its parameters.
python_maximum_signature_line_length = 100

html_static_path = ["_static"]
html_css_files = ["custom.css"]

# The inventories are in this repository, so that the documentation is built without a network.
# _inventories/make.py makes them.
_inventories = Path(__file__).parent / "_inventories"
intersphinx_mapping = {
    "twisted": ("https://docs.twisted.org/en/stable/api/", str(_inventories / "twisted.inv")),
    "python": ("https://docs.python.org/3/", str(_inventories / "python.inv")),
    "zope": ("https://zopeinterface.readthedocs.io/en/latest/", str(_inventories / "zope.inv")),
}

nitpicky = True
nitpick_ignore_regex = [
    # autobahn's own documentation has no inventory of these.
    ("py:.*", r"(autobahn\..*)?WebSocket(Server|Client)(Factory|Protocol)"),
    # A type variable.
    ("py:class", r"upgrade_switch\.protocols\._udp\.client\._P"),
]
