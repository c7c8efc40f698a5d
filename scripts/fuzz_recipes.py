"""Fuzzes the recipe reader with mutated TOML, guided by coverage (atheris).

    python scripts/fuzz_recipes.py [SECONDS [SEED]]

Every text must be a valid recipe or be rejected with its location. Any other exception ends the script with the text.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["peftkit.recipe.load_recipe", "tomllib"]):
    from peftkit.errors import RecipeError
    from peftkit.plugins import load_registry
    from peftkit.recipe import dump_recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
REGISTRY = load_registry()
FOLDER = tempfile.TemporaryDirectory(prefix="peftkit-fuzz-")
FILE = Path(FOLDER.name) / "x.toml"


def read(data: bytes) -> None:
    """Read a text; a valid recipe must survive a round trip, and an error must have a location and one line."""
    FILE.write_bytes(data)
    try:
        recipe = load_recipe(FILE, REGISTRY)
    except RecipeError as error:
        for problem in error.problems:
            assert problem.file, problem
            assert "\n" not in str(problem), problem
        return
    FILE.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(FILE, REGISTRY) == recipe


def main(seconds: str, seed: str) -> None:
    corpus = Path(FOLDER.name) / "corpus"
    corpus.mkdir()
    whole = [f for f in sorted(RECIPES.rglob("*.toml")) if "extends" not in f.read_text(encoding="utf-8")]
    for number, file in enumerate(whole):
        (corpus / str(number)).write_bytes(file.read_bytes())
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={FOLDER.name}/", str(corpus)], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*(sys.argv[1:] or ("30", "1")))
