"""
Write the manual page ``upgrade-switch(1)``, from what the command's options say of themselves, to
standard output::

    python docs/manpage.py > docs/upgrade-switch.1
"""

import re

from upgrade_switch import __version__
from upgrade_switch.command.completion import commands_of, options_of
from upgrade_switch.command.subcommands import MainOptions

EXIT_CODES = {
    0: "Success.",
    1: "No connection, no port to listen on, a connection that was cut off, or output not written.",
    2: "A usage error, or an extra that is not installed.",
    3: "The server answered, but did not switch.",
}


def escaped(text):
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def described(options):
    """The entries of a command's options."""
    for option in options_of(options):
        # "FILE: write ...", and "'NAME: VALUE' or @FILE: send ..."; else the name is the value's, too.
        value, colon, text = "", "", option.text
        if match := re.match(r"((?:'[^']*'|(?!: )[^'])+): ", option.text):
            value, colon, text = match[1], ":", option.text[match.end() :]
        if not option.has_value:
            value, text = "", option.text
        elif not colon or not re.match(r"'?[A-Z][A-Z ']", value):
            value, text = option.name.upper(), option.text
        name = f"\\fB{escaped('--' + option.name)}\\fR"
        yield ".TP"
        yield f"{name} \\fI{escaped(value)}\\fR" if value else name
        yield escaped(text[:1].upper() + text[1:])


def page():
    """The page's lines."""
    main = MainOptions()
    yield f'.TH UPGRADE\\-SWITCH 1 "" "upgrade_switch {__version__}"'
    yield ".SH NAME"
    yield "upgrade\\-switch \\- HTTP Upgrade for Twisted: one port, many protocols"
    yield ".SH SYNOPSIS"
    commands = commands_of(main)
    for number, (name, options, _) in enumerate(commands):
        if number:
            yield ".br"
        yield f"\\fBupgrade\\-switch {name}\\fR {escaped(options.synopsis)}"
    yield ".SH DESCRIPTION"
    yield escaped(main.longdesc)
    yield ".SH OPTIONS"
    yield from described(main)
    for name, options, text in commands:
        yield f".SH UPGRADE\\-SWITCH {name.upper()}"
        yield escaped(text)
        yield ".PP"
        yield escaped(options.longdesc)
        yield from described(options)
        yield ".SS Examples"
        for example in options.examples:
            yield ".PP"
            yield ".nf"
            yield escaped(example)
            yield ".fi"
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield f".TP\n{code}"
        yield escaped(meaning)
    yield ".SH SEE ALSO"
    yield "\\fBtwist\\fR(1), \\fBsystemd.socket\\fR(5)"


if __name__ == "__main__":
    for line in page():
        print(line)
