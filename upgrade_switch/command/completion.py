"""
``upgrade-switch --completion SHELL``: a script that has a shell complete commands and options.

It is made from the same tables as ``--help``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from twisted.python.usage import Options

from .listening import LOG_FORMATS

__all__ = ["SHELLS", "Command", "Option", "commands_of", "completion", "options_of"]

SHELLS = ("bash", "zsh")

# Which values are files, and which are words from a list; the others are the user's to know.
_FILES = ("access-log", "ca", "cert", "client-ca", "config", "key", "user-file")
_WORDS = {"completion": SHELLS, "log-format": LOG_FORMATS}


class Option(NamedTuple):
    """
    An option of a command, described for a person.

    :ivar name: without the hyphens.
    :ivar has_value: whether a value follows it.
    :ivar text: what it is for.
    """

    name: str
    has_value: bool
    text: str


class Command(NamedTuple):
    """A subcommand, described for a person."""

    name: str
    options: Options
    text: str


def commands_of(main: Options) -> list[Command]:
    """The subcommands of a command, in their order."""
    table: list[tuple[str, None, Callable[[], Options], str]] = getattr(main, "subCommands", [])
    return [Command(name, make(), text) for name, _, make, text in table]


def options_of(options: Options) -> list[Option]:
    """The options of a command, by name."""
    docs = {name: " ".join((text or "").split()) for name, text in options.docs.items()}
    found = []
    for entry in options.longOpt:
        name = entry.rstrip("=")
        default = options.defaults.get(name)
        text = docs.get(name, "")
        if entry.endswith("=") and default is not None:
            number = f"{default:g}" if isinstance(default, float) else str(default)
            text += f" [default: {number}]"
        found.append(Option(name, entry.endswith("="), text))
    return sorted(found)


def completion(shell: str, main: Options) -> str:
    """
    A script that has a shell complete the command line.

    :param shell: one of :data:`SHELLS`.
    :param main: the options of ``upgrade-switch``, which has subcommands.
    """
    write = {"bash": _bash, "zsh": _zsh}[shell]
    return "\n".join(write(main)) + "\n"


def _bash(main: Options) -> Iterator[str]:
    subcommands = {command.name: command.options for command in commands_of(main)}
    yield "# Completion of upgrade-switch for bash. To load it:"
    yield "#     source <(upgrade-switch --completion bash)"
    yield "_upgrade_switch() {"
    yield "    local word command= words="
    yield '    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do'
    yield f"        case $word in {'|'.join(subcommands)}) command=$word; break ;; esac"
    yield "    done"
    yield '    case "$command ${COMP_WORDS[COMP_CWORD-1]}" in'
    files, unknown = [], []
    for name, options in {"": main, **subcommands}.items():
        for option in options_of(options):
            pattern = f"'{name} --{option.name}'"
            if option.name in _WORDS:
                yield f"        {pattern}) words='{' '.join(_WORDS[option.name])}' ;;"
            elif option.name in _FILES:
                files.append(pattern)
            elif option.has_value:
                unknown.append(pattern)
    # If nothing matches, bash completes the names of files (-o default).
    yield f"        {'|'.join(files)}) ;;"
    yield f"        {'|'.join(unknown)}) compopt +o default ;;"
    yield "        *)"
    yield "            case $command in"
    for name, options in subcommands.items():
        yield f"                {name}) words='{_option_words(options)}' ;;"
    yield f"                *) words='{' '.join(subcommands)} {_option_words(main)}' ;;"
    yield "            esac ;;"
    yield "    esac"
    yield '    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))'
    yield "}"
    yield "complete -o default -F _upgrade_switch upgrade-switch"


def _option_words(options: Options) -> str:
    return " ".join(f"--{option.name}" for option in options_of(options))


def _zsh(main: Options) -> Iterator[str]:
    yield "#compdef upgrade-switch"
    yield "# Completion of upgrade-switch for zsh: the file _upgrade-switch in a folder of $fpath."
    yield "_upgrade_switch() {"
    yield "    local state line"
    yield "    local -a commands"
    yield "    commands=("
    for command in commands_of(main):
        yield f"        {_quoted(f'{command.name}:{command.text}')}"
    yield "    )"
    yield from _arguments(main, "    ", "'1:command:->command'", "'*::argument:->arguments'")
    yield "    case $state in"
    yield "        command) _describe command commands ;;"
    yield "        arguments)"
    yield "            case $words[1] in"
    for command in commands_of(main):
        yield f"                {command.name})"
        yield from _arguments(command.options, " " * 20, "'*:argument:_files'")
        yield "                    ;;"
    yield "            esac"
    yield "            ;;"
    yield "    esac"
    yield "}"
    yield '_upgrade_switch "$@"'


def _arguments(options: Options, indent: str, *more: str) -> Iterator[str]:
    """A call of zsh's ``_arguments``; any option may come again."""
    yield f"{indent}_arguments -C \\"
    for option in options_of(options):
        # The first sentence: a line for each option.
        text = re.sub(r"([][\\:])", r"\\\1", re.split(r"\. (?=[A-Z])", option.text)[0])
        value = ""
        if option.name in _WORDS:
            value = f":{option.name}:({' '.join(_WORDS[option.name])})"
        elif option.has_value:
            value = f":{option.name}:{'_files' if option.name in _FILES else ''}"
        equals = "=" if option.has_value else ""
        yield f"{indent}    {_quoted(f'*--{option.name}{equals}[{text}]{value}')} \\"
    yield f"{indent}    {' '.join(more)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
