"""`bibier completion`."""

import importlib
import typing
from typing import Annotated, Literal

from pydantic import Field

from bibier_cli import COMMANDS

from ..commandline import Positional, Section

_BASH = """_bibier() {
    local current=${COMP_WORDS[COMP_CWORD]} command="${COMP_WORDS[*]:1:2}" words
    case "$command" in
__CASES__
        *) words="__COMMANDS__" ;;
    esac
    (( COMP_CWORD == 1 )) && words="__COMMANDS__"
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _bibier bibier"""


class CompletionArguments(Section):
    """Print a script that completes commands and options in your shell.

    Examples:
      bibier completion bash >> ~/.bashrc
      bibier completion zsh >> ~/.zshrc
      bibier completion fish > ~/.config/fish/completions/bibier.fish
    """

    shell: Annotated[Literal["bash", "zsh", "fish"], Positional("SHELL")] = Field(description="bash, zsh or fish")


def completion(arguments: CompletionArguments) -> None:
    """Print the script."""
    options = {command: _options(function) for command, (function, _) in COMMANDS.items()}
    if arguments.shell == "fish":
        print("\n".join(_fish(options)))
        return

    groups = {command.split()[0] for command in COMMANDS if " " in command}
    cases = [f'        "{command}"*) words="{" ".join(keys)}" ;;' for command, keys in options.items()]
    for group in sorted(groups):
        members = [command.split()[1] for command in COMMANDS if command.startswith(f"{group} ")]
        cases.append(f'        "{group}"*) words="{" ".join(members)}" ;;')

    names = " ".join(dict.fromkeys(command.split()[0] for command in COMMANDS))
    script = _BASH.replace("__CASES__", "\n".join(cases)).replace("__COMMANDS__", names)
    print(f"autoload -U +X bashcompinit && bashcompinit\n{script}" if arguments.shell == "zsh" else script)


def _fish(options: dict[str, list[str]]) -> list[str]:
    lines = []
    for command, keys in options.items():
        first, *second = command.split()
        lines.append(f"complete -c bibier -n __fish_use_subcommand -a {first}")
        lines += [f"complete -c bibier -n '__fish_seen_subcommand_from {first}' -a {word}" for word in second]
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in (first, *second))
        lines += [f"complete -c bibier -n '{seen}' -l {key.removeprefix('--')}" for key in keys]
    return list(dict.fromkeys(lines))


def _options(function: str) -> list[str]:
    """The keys of a command; none if a package that it needs is not installed."""
    module, _, name = function.partition(":")
    try:
        command = getattr(importlib.import_module(f"bibier_hf.commands.{module}"), name)
    except ModuleNotFoundError:
        return []

    section: type[Section] = next(iter(typing.get_type_hints(command).values()))
    options = [line.split()[0].rstrip(":,") for line in section.option_help() if line.startswith("  --")]
    return [*dict.fromkeys(options), "--help"]
