"""The command line: ``peftkit COMMAND …``, or ``peftkit RECIPE`` for ``peftkit run RECIPE``.

``parser`` builds the parser, ``dispatch`` runs one command, and each module of ``commands`` is one command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from peftkit.cli.error_output import print_interrupted
from peftkit.cli.keyboard_interrupt import EXIT_CODE, SigintRecord
from peftkit.garbage_collection import paused_gc


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words after ``peftkit``; None reads them from ``sys.argv``.

    Returns:
        The exit code: 0 success, 1 the run failed, 2 invalid input, 128 + N interrupted by signal N.
    """
    with SigintRecord() as sigint:
        try:
            with paused_gc():
                from peftkit.cli.dispatch import dispatch  # here, where Ctrl-C during imports is handled

            return dispatch(sys.argv[1:] if arguments is None else arguments, sigint)
        except KeyboardInterrupt:
            pass
        except Exception:
            if not sigint.received:
                raise
    print_interrupted()
    return EXIT_CODE
