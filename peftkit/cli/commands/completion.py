"""``peftkit completion``."""

from __future__ import annotations

import argparse

from peftkit.cli.subcommand import SubCommand

INSTALL = {
    "bash": """\
# To install, add this line to ~/.bashrc:
#   eval "$(peftkit completion bash)"
""",
    "zsh": """\
# To install, add these lines to ~/.zshrc:
#   autoload -Uz compinit && compinit
#   eval "$(peftkit completion zsh)"
""",
    "fish": """\
# To install, run:
#   mkdir -p ~/.config/fish/completions
#   peftkit completion fish > ~/.config/fish/completions/peftkit.fish
""",
}
"""How to install each shell's script, as comments of that shell."""


class CompletionCommand(SubCommand):
    """Prints a shell's completion script."""

    name = "completion"
    help = "Print the completion script of a shell."
    examples = (
        ("Complete commands, options and components in this bash", 'eval "$(peftkit completion bash)"'),
        ("Install it for fish", "peftkit completion fish > ~/.config/fish/completions/peftkit.fish"),
    )
    json_help = None  # the output is a script

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=list(INSTALL), help="The shell.")

    def run(self, args: argparse.Namespace) -> int:
        from argcomplete.shell_integration import shellcode

        script = shellcode(["peftkit"], shell=args.shell)
        lines = script.strip("\n").split("\n")
        head = lines[:1] if lines[0].startswith("#compdef") else []  # zsh wants it in the first line
        print("\n".join([*head, INSTALL[args.shell].rstrip(), *lines[len(head) :]]))
        return 0
