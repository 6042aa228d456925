"""
``upgrade-switch --completion``: what shells complete, as they do it.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.kit.commands import PATIENCE, fails, run
from tests.kit.foreign import needs
from tests.kit.programs import Program
from upgrade_switch.command.completion import commands_of, options_of
from upgrade_switch.command.subcommands import MainOptions


def script(shell: str) -> str:
    """The script for a shell."""
    done = run("--completion", shell)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def shell(*command: str, folder: Path) -> list[str]:
    """The lines that a shell writes."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, timeout=PATIENCE, check=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts, and with a file."""
    path = tmp_path_factory.mktemp("completion")
    (path / "file.txt").touch()
    (path / "bash").write_text(script("bash"))
    (path / "_upgrade-switch").write_text(script("zsh"))
    return path


COMPLETED = {
    "se": ["serve"],
    "": ["--completion", "--help", "--version", "connect", "forward", "probe", "serve"],
    "serve --li": ["--listen"],
    "serve --h": ["--h2c", "--head-timeout", "--heartbeat", "--help", "--help-auth",
                  "--help-auth-type", "--http2-connect"],
    "connect --": ["--ca", "--cert", "--data", "--eof", "--forgive-truncation", "--header",
                   "--heartbeat", "--help", "--http2", "--insecure", "--key", "--method", "--progress",
                   "--timeout", "--user", "--user-fd", "--user-file", "--version", "--via"],
    "connect --timeout 3 --pro": ["--progress"],
    "forward --pro": [],
    "serve --log-format j": ["json"],
    "--completion ": ["bash", "zsh"],
    "serve --listen t": [],
}  # fmt: skip


@pytest.mark.parametrize("line", COMPLETED)
def test_bash(line: str, folder: Path) -> None:
    """bash completes subcommands, their options, and the values that are words of a list."""
    words = ["upgrade-switch", *line.split(" ")]
    code = (
        "source ./bash; shift; COMP_WORDS=('upgrade-switch' \"$@\"); COMP_CWORD=$#;"
        # This builtin works only while bash itself asks for completions.
        "compopt() { :; }; _upgrade_switch; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    found = shell("bash", "--norc", "-c", code, "bash", *words, folder=folder)
    assert sorted(word for word in found if word) == COMPLETED[line]


def test_bash_at_a_prompt(folder: Path) -> None:
    """At bash's prompt, commands are completed, and files where a value is one."""
    code = "source ./bash; complete -p upgrade-switch"
    (registered,) = shell("bash", "--norc", "-c", code, folder=folder)
    assert registered == "complete -o default -F _upgrade_switch upgrade-switch"
    typed = (
        b"source ./bash\nupgrade-switch se\t\x01echo \nupgrade-switch serve --config fi\t\x01echo \n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-i"],
        input=typed,
        cwd=folder,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        start_new_session=True,
    )
    assert done.stdout.decode().splitlines() == [
        "upgrade-switch serve",
        "upgrade-switch serve --config file.txt",
    ]


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_every_option(name: str) -> None:
    """Both scripts have every subcommand and every option of each."""
    text = script(name)
    main = MainOptions()
    for command in commands_of(main):
        assert command.name in text
        for option in options_of(command.options):
            assert f"--{option.name}" in text


ZSH = {
    "se": "serve",
    # zsh takes the = back where no value follows it.
    "serve --li": "serve --listen=?",
    "connect --pro": "connect --progress",
    "serve --log-format j": "serve --log-format json",
    "serve --config fi": "serve --config file.txt",
}


@needs("zsh")
def test_zsh(folder: Path) -> None:
    """At zsh's prompt, subcommands, options, words of a list and files are completed."""
    expected = ["compinit -u", *(rf"^= upgrade-switch {end} ?\r$" for end in ZSH.values())]
    lines = ["PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D\n"]
    # What has been completed is printed, since Ctrl-A goes to the beginning of the line.
    lines += [f"upgrade-switch {typed}\t\x01print -r -- = \n" for typed in ZSH]
    terminal, theirs = os.openpty()
    with Program(
        ["zsh", "-f", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(folder)},
        start_new_session=True,
    ) as program:
        os.close(theirs)
        shown = ""
        with program.killed_if_late():
            for line, pattern in zip(lines, expected, strict=True):
                os.write(terminal, line.encode())
                while not re.search(pattern, shown, re.MULTILINE):
                    shown += os.read(terminal, 1000).decode()
    os.close(terminal)


def test_unknown_shell() -> None:
    """Another shell is a usage error."""
    assert "--completion must be one of bash, zsh, not 'fish'" in fails(2, "--completion", "fish")
