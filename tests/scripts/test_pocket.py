"""The scripts that build the built-in data and models, on a small WordNet."""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "pocket"
NOUNS = """\
  1 This line is of the licence.
00000001 03 n 01 thing 0 000 | that which is perceived or known or inferred to have its own distinct existence
00000002 05 n 02 hound 0 hunting_dog 0 001 @ 00000001 n 0000 | any of several breeds used for the chase; "he fed it"
00000003 05 n 01 Rex 0 001 @i 00000002 n 0000 | a famous animal of the screen
00000004 20 n 01 rose(a) 0 001 @ 00000001 n 0000 | one of the thorny plants of gardens; "a red one"; "wild ones"
"""


@pytest.fixture
def pocket(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    names = ("wordnet", "build_tasks", "pretext")
    modules = {name: __import__(name) for name in names}
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    return modules


@pytest.fixture
def synsets(pocket: dict[str, ModuleType], tmp_path: Path) -> dict[str, object]:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text(NOUNS if part == "noun" else "", encoding="utf-8")
    return pocket["wordnet"].read(tmp_path)  # type: ignore[no-any-return]


def test_the_wordnet_database_is_parsed(synsets) -> None:  # type: ignore[no-untyped-def]
    assert list(synsets) == ["n00000001", "n00000002", "n00000003", "n00000004"]
    hound, rex, rose = list(synsets.values())[1:]
    assert hound.lemmas == ("hound", "hunting dog")
    assert (hound.category, hound.hypernyms, rex.hypernyms) == ("animal", ("n00000001",), ("n00000002",))
    assert (hound.definition, hound.examples) == ("any of several breeds used for the chase", ("he fed it",))
    assert (rose.lemmas, rose.examples) == (("rose",), ("a red one", "wild ones"))
    assert synsets["n00000001"].category is None


def test_definitions_that_contain_the_answer_are_detected(pocket, synsets) -> None:  # type: ignore[no-untyped-def]
    build = pocket["build_tasks"]
    _, hound, rex, rose = synsets.values()
    assert [build.names_category(s) for s in (hound, rex, rose)] == [False, True, True]
    synset = pocket["wordnet"].Synset("n9", 5, ("field spaniel",), (), "a dog bred from spaniels", ())
    assert build.gives_itself_away(synset)
    assert not build.gives_itself_away(hound)


def test_groups_have_five_sisters_or_five_categories(pocket) -> None:  # type: ignore[no-untyped-def]
    synset, build = pocket["wordnet"].Synset, pocket["build_tasks"]
    nouns = [
        synset(f"n{f}{i}", 4 + f, (f"word{chr(97 + f)}{chr(97 + i)}",), (f"n{f}",), "a thing of some use", ())
        for f in range(8)
        for i in range(12)
    ]
    sisters = build.sister_groups(nouns, random.Random(0))
    assert len(sisters) == 16
    assert all(len(g) == 5 and len({s.hypernyms for s in g}) == 1 for g in sisters)
    far = build.far_groups(nouns, 12, random.Random(0))
    assert all(len({s.category for s in g}) == 5 for g in far)
    taken = [s.id for g in far for s in g]
    assert len(set(taken)) == len(taken) == 60
    rows = build.choice_rows(far, random.Random(0))
    assert {(frozenset(r["choices"]), r["answer"]) for r in rows} == {
        (frozenset(s.lemmas[0] for s in g), s.lemmas[0]) for g in far for s in g
    }


def test_a_synset_is_never_in_two_splits(pocket, synsets) -> None:  # type: ignore[no-untyped-def]
    assignment = pocket["build_tasks"].Assignment()
    assignment.assign(synsets.values(), "test")
    with pytest.raises(SystemExit, match="would be in test and train"):
        assignment.assign(synsets.values(), "train")


def test_pretext_pairs_have_no_category_and_corruption_keeps_all_words(pocket, synsets) -> None:  # type: ignore[no-untyped-def]
    pretext = pocket["pretext"]
    pairs = pretext.pairs(list(synsets.values()), synsets, random.Random(0))
    assert {source.split(":")[0] for source, _ in pairs} >= {"word", "kind", "kind of word"}
    kinds = {target for source, target in pairs if source.startswith("kind")}
    assert kinds <= {"thing", "hound", "hunting dog"}
    text = " ".join(f"w{i}" for i in range(40))
    source, target = pretext.corrupt(text, random.Random(1))
    spans = dict(re.findall(r"(<extra_id_\d+>) ([^<]+)", target))
    assert spans
    assert " ".join(spans.get(word, word).strip() for word in source.split()) == text


def test_pretraining_excludes_dev_and_test_synsets(pocket, synsets, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, held in (("train", "n00000001"), ("dev", "n00000002"), ("test", "n00000004")):
        (tmp_path / "task").mkdir(exist_ok=True)
        pq.write_table(pa.table({"synset": [held]}), tmp_path / "task" / f"{split}.parquet")
    kept = pocket["pretext"].corpus(tmp_path, tmp_path)
    assert [s.id for s in kept] == ["n00000001", "n00000003"]
