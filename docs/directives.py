"""
What autodoc has not. Two directives of this documentation's own::

    .. command-help:: serve
    .. interface:: upgrade_switch.IDrainable

The first shows what ``upgrade-switch serve --help`` says when the documentation is built, the second
what a ``zope.interface`` says of itself, for which autodoc has no directive.
"""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation
from twisted.python.reflect import namedAny
from zope.interface.interface import Method

import upgrade_switch
from upgrade_switch.interfaces import Acceptor
from upgrade_switch.testing import client as testing

_ACCEPTOR = stringify_annotation(Acceptor, "smart")
# Where things are, and where they are imported from.
_PUBLIC = {
    f"{getattr(module, name).__module__}.{name}": f"{module.__name__}.{name}"
    for module in (testing, upgrade_switch)
    for name in module.__all__
}

_INTERFACE = re.compile(r"<InterfaceClass ([\w.]+)>")


class CommandHelp(SphinxDirective):
    """A command's options, as it says them itself."""

    optional_arguments = 1

    def run(self):
        command = Path(sys.executable).with_name("upgrade-switch")
        arguments = [*self.arguments, "--help"]
        said = subprocess.run(  # noqa: S603 - this package's own command
            [command, *arguments],
            capture_output=True,
            check=True,
            text=True,
            # Twisted fills its lines as far as the terminal goes.
            env=os.environ | {"COLUMNS": "100"},
        )
        block = nodes.literal_block(said.stdout, said.stdout, language="text")
        return [block]


class Interface(SphinxDirective):
    """An interface: its docstring, its methods and its attributes."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        interface = namedAny(name)
        module, _, short = name.rpartition(".")
        lines = [f".. py:class:: {short}", f"   :module: {module}", "", *indented(interface.__doc__, 1)]
        for member, what in interface.namesAndDescriptions():
            if isinstance(what, Method):
                lines += [f"   .. py:method:: {member}{what.getSignatureString()}", ""]
            else:
                lines += [f"   .. py:attribute:: {member}", ""]
            lines += indented(what.__doc__, 2)
        return self.parse_text_to_nodes("\n".join(lines))


def indented(docstring, levels):
    """A docstring's lines, so many levels in, and an empty one."""
    prefix = "   " * levels
    return [prefix + line for line in inspect.cleandoc(docstring or "").splitlines()] + [""]


def plain_types(app, what, name, obj, options, signature, returns):
    """
    Write a signature's types as their public names. Interfaces are values to Sphinx, which shows their
    repr; an acceptor's type is a long union.
    """
    return tuple(said and _plain(said) for said in (signature, returns))


def _plain(said):
    said = said.replace(_ACCEPTOR, "~upgrade_switch.decision.Acceptor")
    said = _INTERFACE.sub(r"~\1", said)
    return re.sub(r"upgrade_switch[\w.]+", lambda match: _PUBLIC.get(match[0], match[0]), said)


def setup(app):
    app.connect("autodoc-process-signature", plain_types)
    # Pygments does not know it.
    app.add_lexer("haproxy", TextLexer)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("interface", Interface)
    return {"parallel_read_safe": True}
