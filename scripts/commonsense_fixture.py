"""Writes a few invented questions in the format of CommonsenseQA on the Hub, to run its recipes offline.

    python scripts/commonsense_fixture.py FOLDER

writes FOLDER/data/{train,validation,test}-00000-of-00001.parquet with the columns of the Hub's data set. As on the Hub,
the test split has no answers. The rows are deterministic, and too few and too simple to measure anything.
"""

from __future__ import annotations

import argparse
import random
from hashlib import sha256
from pathlib import Path
from typing import Any

PLACES = {
    "kitchen": ("saucepan", "whisk", "oven glove", "bread knife"),
    "garage": ("spare tyre", "car jack", "motor oil", "tow rope"),
    "library": ("encyclopedia", "reading desk", "card catalogue", "bookshelf"),
    "beach": ("sandcastle", "seashell", "deck chair", "surfboard"),
    "bathroom": ("toothbrush", "bath mat", "shower curtain", "hair dryer"),
    "farm": ("tractor", "hay bale", "milking stool", "scarecrow"),
    "classroom": ("blackboard", "school desk", "chalk", "globe"),
    "hospital": ("stethoscope", "wheelchair", "operating table", "thermometer"),
    "garden": ("watering can", "lawn mower", "flower bed", "bird bath"),
    "airport": ("departure board", "runway", "luggage belt", "control tower"),
}
QUESTIONS = ("Where would you most likely find a {thing}?", "If you were looking for a {thing}, where would you go?")
SIZES = {"train": 56, "validation": 16, "test": 8}
LETTERS = "ABCDE"


def questions() -> list[dict[str, Any]]:
    """Build all rows, in a fixed order."""
    rng = random.Random("commonsense fixture")
    rows = []
    for template in QUESTIONS:
        for place, things in PLACES.items():
            for thing in things:
                texts = [place, *rng.sample([other for other in PLACES if other != place], len(LETTERS) - 1)]
                rng.shuffle(texts)
                question = template.format(thing=thing)
                rows.append(
                    {
                        "id": sha256(question.encode()).hexdigest()[:32],
                        "question": question,
                        "question_concept": thing,
                        "choices": {"label": [*LETTERS], "text": texts},
                        "answerKey": LETTERS[texts.index(place)],
                    }
                )
    rng.shuffle(rows)
    return rows


def write(folder: Path) -> None:
    """Write the three splits."""
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows, start = questions(), 0
    for split, number in SIZES.items():
        split_rows = rows[start : start + number]
        if split == "test":
            split_rows = [row | {"answerKey": ""} for row in split_rows]
        Dataset.from_list(split_rows).to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
        start += number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder in which data/ is created")
    write(parser.parse_args().folder)
