"""
What autodoc lacks. Two directives for this documentation::

    .. command-help:: serve
    .. interface:: upgrade_switch.IDrainable

The first shows what ``upgrade-switch serve --help`` prints when the documentation is built. The second
documents a ``zope.interface``, for which autodoc has no directive. Besides, types in signatures are
shown by their public names, and link to where they are documented: here, or elsewhere, by the
inventories of ``_inventories``.
"""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import zope.interface
from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.domains.python import PyClasslike
from sphinx.ext.intersphinx import InventoryAdapter, missing_reference
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import stringify_annotation
from twisted.python.reflect import namedAny
from zope.interface.interface import Method

import upgrade_switch
from upgrade_switch import errors, interfaces, observe, protocols, testing

_ALIASES = {
    stringify_annotation(getattr(interfaces, name), "smart"): f"~upgrade_switch.interfaces.{name}"
    for name in ("Acceptor", "ConnectAcceptor", "Answer")
}
# Where things are defined, and where they are imported from; the last one wins.
_PUBLIC = {
    f"{getattr(module, name).__module__}.{name}": f"{module.__name__}.{name}"
    for module in (protocols, testing, interfaces, observe, errors, upgrade_switch)
    for name in module.__all__
    if hasattr(getattr(module, name), "__module__")
}
# Bases are shown by the name of the module that defines them, however private it is.
_PUBLIC["twisted.web._newclient.ResponseFailed"] = "twisted.web.client.ResponseFailed"
_BY_LAST_PART = {name.rpartition(".")[2]: name for name in _PUBLIC.values()}

_INTERFACE = re.compile(r"<InterfaceClass ([\w.]+)>")


class CommandHelp(SphinxDirective):
    """A command's options, as it prints them itself."""

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
            env=os.environ | {"COLUMNS": "80"},
        )
        block = nodes.literal_block(said.stdout, said.stdout, language="text", classes=["wraps"])
        return [block]


class Interface(SphinxDirective):
    """An interface: its docstring, its methods and its attributes."""

    required_arguments = 1

    def run(self):
        name = self.arguments[0]
        interface = namedAny(name)
        module, _, short = name.rpartition(".")
        lines = [
            f".. py:zope-interface:: {short}",
            f"   :module: {module}",
            "",
            *indented(interface.__doc__, 1),
        ]
        bases = [
            base.__identifier__ for base in interface.__bases__ if base is not zope.interface.Interface
        ]
        if bases:
            lines += ["   Extends " + ", ".join(f":class:`~{base}`" for base in bases) + ".", ""]
        for member, what in interface.namesAndDescriptions():
            if isinstance(what, Method):
                lines += [f"   .. py:method:: {member}{what.getSignatureString()}", ""]
            else:
                lines += [f"   .. py:attribute:: {member}", ""]
            lines += indented(what.__doc__, 2)
        return self.parse_text_to_nodes("\n".join(lines))


class InterfaceLike(PyClasslike):
    """What Sphinx's Python domain has for a class, but called an interface."""

    def run(self):
        self.name = "py:class"
        return super().run()

    def get_signature_prefix(self, sig):
        return [addnodes.desc_sig_keyword("", "interface"), addnodes.desc_sig_space()]


def indented(docstring, levels):
    """A docstring's lines, indented, and an empty one."""
    prefix = "   " * levels
    return [prefix + line for line in inspect.cleandoc(docstring or "").splitlines()] + [""]


def plain_types(app, what, name, obj, options, signature, returns):
    """
    Write a signature's types as their public names. Interfaces are values to Sphinx, which shows their
    repr; an acceptor's type is a long union.
    """
    return tuple(said and _plain(said) for said in (signature, returns))


def _plain(said):
    for union, alias in _ALIASES.items():
        said = said.replace(union, alias)
    said = _INTERFACE.sub(r"~\1", said)
    return re.sub(r"upgrade_switch[\w.]+", lambda match: _PUBLIC.get(match[0], match[0]), said)


def without_generated(app, what, name, obj, options, lines):
    """Leave out what Python itself says of every named tuple."""
    generated = ("Create new instance of ", "Alias for field number ")
    lines[:] = [line for line in lines if not line.startswith(generated)]


def resolve_short_name(app, env, node, contnode):
    """
    Find what a name without its module stands for: annotations that are imported for type checkers only
    are no more than that.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    name = _PUBLIC.get(target) or _BY_LAST_PART.get(target) or _elsewhere(env, target)
    if name is None:
        return None
    domain = env.get_domain("py")
    here = domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    if here is not None:
        return here
    node = node.copy()
    node["reftarget"] = name
    return missing_reference(app, env, node, contnode)


def _elsewhere(env, target):
    """The full name of what the inventories have under a short one."""
    for names in InventoryAdapter(env).main_inventory.values():
        for name in names:
            if name.rpartition(".")[2] == target:
                return name
    return None


def setup(app):
    app.connect("autodoc-process-signature", plain_types)
    app.connect("autodoc-process-docstring", without_generated)
    app.connect("missing-reference", resolve_short_name, priority=600)
    # Pygments does not know it.
    app.add_lexer("haproxy", TextLexer)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("interface", Interface)
    app.add_directive_to_domain("py", "zope-interface", InterfaceLike)
    return {"parallel_read_safe": True}
