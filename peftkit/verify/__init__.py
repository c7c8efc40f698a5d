"""Recompute what a run directory records from its files, data, model and recipe.

``verify_run`` runs all checks. ``stored_files``, ``reload`` and ``recount`` hold the checks, by what they recompute
from.
"""

from peftkit.verify.results import Check, Status
from peftkit.verify.verify_run import Verification, verify_run

__all__ = ["Check", "Status", "Verification", "verify_run"]
