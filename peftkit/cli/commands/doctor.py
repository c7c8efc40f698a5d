"""``peftkit doctor``."""

from __future__ import annotations

import argparse

from peftkit import plugins
from peftkit.cli.subcommand import SubCommand

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


class DoctorCommand(SubCommand):
    """Checks the machine and the environment."""

    name = "doctor"
    help = (
        "Check the machine: packages, device, plugins, variables, folders, W&B and the hub. Exits with 1 on problems."
    )
    examples = (
        ("Check this machine", "peftkit doctor"),
        ("For a bug report", "peftkit doctor --json > doctor.json"),
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        pass

    def run(self, args: argparse.Namespace) -> int:
        from peftkit.monitor.machine_checks import check_machine  # imports torch

        checks = [*check_machine(plugins.load_registry())]
        if args.json:
            self.print_json({"checks": [check._asdict() for check in checks]})
        else:
            for check in checks:
                if check.status != "ok" or not args.quiet:
                    print(f"{MARKS[check.status]:<8} {check.name}: {check.text}")
                    if check.remedy:
                        print(f"{'':<8} {check.remedy}")
        return int(any(check.status == "problem" for check in checks))
