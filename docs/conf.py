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

nitpicky = True
# What is others', or is not public: names that a signature mentions and nothing here documents. (No
# intersphinx: the documentation is built without a network.)
nitpick_ignore_regex = [
    ("py:.*", r"(twisted|zope|autobahn)\..*|(collections|typing)\..*"),
    ("py:.*", r"I[A-Z]\w+|Deferred|Headers|Failure|Clock|Any|Callable|Iterable|Mapping|Sequence"),
]
