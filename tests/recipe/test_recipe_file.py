from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftkit.errors import RecipeError
from peftkit.recipe.recipe_file import KeyLocation, format_key, load_raw

CheckErrors = Callable[..., list[str]]

# Invalid TOML files, and TOML files that are not recipes, with their errors.
BROKEN: dict[str, tuple[bytes, str]] = {
    "open text": (b'[run]\nname = "abc\n', "x.toml:2: not valid TOML: Illegal character '\\n', in: name = \"abc"),
    "open list": (b"[run]\nseed = [1\n\n\n", "x.toml:2: not valid TOML: Unclosed array, in: seed = [1"),
    "open table": (b"\n[run\nseed = 1\n", "x.toml:2: not valid TOML: Expected ']' at the end of a table"),
    "no value": (b"[run]\nseed =\nname = 1\n", "x.toml:2: not valid TOML: Invalid value, in: seed ="),
    "no equals sign": (b"[run]\nseed 1\n", "x.toml:2: not valid TOML: Expected '=' after a key"),
    "bare text": (b"[run]\n\nname = abc\n", "x.toml:3: not valid TOML: Invalid value, in: name = abc"),
    "capital true": (b"[track]\ntensorboard = True\n", "x.toml:2: not valid TOML: Invalid value"),
    "JSON": (b'{"run": {"seed": 1}}', "x.toml:1: not valid TOML: Invalid statement"),
    "a key twice": (
        b"[run]\nseed = 1\nname = 'a'\nseed = 2\n",
        "x.toml:4: run.seed: is already set in line 2; keep one",
    ),
    "a key twice over lines": (b"[run]\na = 1\na = '''\n\n'''\n", "x.toml:5: run.a: is already set in line 2"),
    "a table twice": (b"[run]\n[train]\n['run'] # again\n", "x.toml:3: run: is already set in line 1; keep one"),
    "a table that is a value": (b"run = 1\n[run]\n", "x.toml:2: run: is already set in line 1"),
    "an inline table twice": (b"run = {seed = 1}\n[run.name]\n", "x.toml:2: not valid TOML: Cannot declare"),
    "bad UTF-8": (
        b'[run]\nname = "\xff"\n',
        "x.toml:2: is not UTF-8: the byte 0xff cannot be decoded; save the file as",
    ),
    "UTF-16": ("[run]\nseed = 1".encode("utf-16"), "x.toml:1: is not UTF-8: the byte 0xff"),
    "NUL": (b'[run]\nname = "a\0b"\n', "x.toml:2: not valid TOML: Illegal character '\\x00', in: name = \"a·b\""),
    "line ends of old": (b"[run]\rseed = 1\r", "x.toml:1: not valid TOML: Expected newline"),
    "a surrogate": (b'[run]\nname = "\\ud800"\n', "x.toml:2: not valid TOML: Escaped character is not a Unicode"),
    "endless digits": (b"[run]\nseed = " + b"9" * 5000, "x.toml:2: not valid TOML: an integer has at most 64 bits"),
    "too deep for Python": (b"seed = " + b"[" * 3000 + b"]" * 3000, "x.toml:1: not valid TOML: nested too deep"),
    "a deep list": (b"[run]\nseed = " + b"[" * 250 + b"]" * 250, "x.toml:2: run.seed[0]…: is nested too deep"),
    "a deep table": (b"[run]\nseed = " + b"{a=" * 99 + b"1" + b"}" * 99, "x.toml:2: run.seed.a…: is nested too deep"),
    "a deep key": (b"[run]\n" + b"a." * 2000 + b"b = 1\n", "x.toml:2: run.a.a…: is nested too deep"),
    "a deep header": (b"\n[" + b"a." * 2000 + b"b]\n", "x.toml:2: a.a.a…: is nested too deep"),
    "extends a number": (b"extends = 3\n", "x.toml:1: extends: must be the path of a recipe in quotes, relative to"),
    "extends nothing": (b'\nextends = ""\n', "x.toml:2: extends: must be the path of a recipe"),
    "extends a list": (b'extends = ["base.toml"]\n', "x.toml:1: extends: must be the path of a recipe"),
    "extends a folder": (b'extends = "."\n', "x.toml:1: extends: '.': is a folder; give a recipe file in it"),
    "extends a NUL": (b'extends = "a\\u0000"\n', "x.toml:1: extends: 'a\\x00': cannot be read: embedded null byte"),
    "extends itself": (b'extends = "x.toml"\n', "x.toml:1: extends: is circular: x.toml → x.toml"),
    "extends what is not there": (b'extends = "y.toml"', "x.toml:1: extends: 'y.toml': file not found"),
}


@pytest.mark.parametrize(("raw", "expected"), BROKEN.values(), ids=BROKEN)
def test_invalid_toml_is_reported_with_its_line(raw: bytes, expected: str, check_errors: CheckErrors) -> None:
    [lines] = check_errors({"x.toml": raw})
    assert lines.startswith(expected)


def test_a_missing_file_is_reported(folder: Path, check_errors: CheckErrors) -> None:
    (folder / "y.toml").write_bytes(b"")
    assert check_errors({}) == ["x.toml: file not found"]
    (folder / "x.toml").mkdir()
    assert check_errors({}) == ["x.toml: is a folder; give a recipe file in it"]


@pytest.mark.parametrize(
    "change", [lambda b: b"\xef\xbb\xbf" + b, lambda b: b.replace(b"\n", b"\r\n")], ids=["BOM", "CRLF"]
)
def test_files_with_bom_or_crlf_are_read(
    change: Callable[[bytes], bytes], valid_recipe: str, check_errors: CheckErrors
) -> None:
    [lines] = check_errors({"x.toml": change(f"{valid_recipe}rank = 1\n".encode())})
    assert lines.startswith("x.toml:9: method.rank: unknown key")


def test_circular_extends_is_reported(check_errors: CheckErrors) -> None:
    files = {
        "x.toml": 'extends = "sub/b.toml"',
        "sub/b.toml": '\nextends = "../c.toml"',
        "c.toml": 'extends = "sub/b.toml"',
    }
    assert check_errors(files) == ["sub/../c.toml:1: extends: is circular: b.toml → c.toml → b.toml"]


def test_errors_are_reported_in_the_file_that_has_them(check_errors: CheckErrors) -> None:
    base = '[method]\nname = "lora"\nr = 8\nlora_dropout = 2\n[task]\nname = "wordnet_mcq"\n[train]\nlr = 1\n'
    child = 'extends = "base.toml"\n[method]\nbais = "none"\nr = "8"\n[model]\nname = "pocket-t5"\n'
    lines = check_errors({"x.toml": child, "base.toml": base}, "train.workers=-1")
    assert [line.split(": ")[:2] for line in lines] == [
        ["x.toml:3", "method.bais"],
        ["x.toml:4", "method.r"],
        ["base.toml:4", "method.lora_dropout"],
        ["base.toml:8", "train.lr"],
        ["--set", "train.workers"],
    ]


def test_an_invalid_base_is_reported_with_its_line(check_errors: CheckErrors) -> None:
    assert check_errors({"x.toml": 'extends = "b.toml"', "b.toml": "\n\nseed\n"})[0].startswith(
        "b.toml:3: not valid TOML"
    )
    assert check_errors({"x.toml": 'extends = "b.toml"', "b.toml": b"\n\xff\n"})[0].startswith("b.toml:2: is not UTF-8")


def test_replaced_tables_leave_no_line_numbers(check_errors: CheckErrors) -> None:
    base = '[model]\nname = "pocket-t5"\n[task]\nname = "wordnet_mcq"\n[method]\nname = "lora"\n[[metric]]\nfoo = 1\n'
    child = 'extends = "b.toml"\n\n[method]\nname = "vera"\nr = 0\n[[metric]]\nname = "accuracy"\nfoo = 1\n'
    lines = check_errors({"x.toml": child, "b.toml": base})
    assert [line.split(": ")[:2] for line in lines] == [["x.toml:5", "method.r"], ["x.toml:8", "metric[0].foo"]]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size", "--set: 'train.batch_size' is not of the form key.path=value, such as train.batch_size=4"),
        ("=4", "--set: '=4' is not of the form"),
        ("a..b=4", "--set: 'a..b=4' is not of the form"),
        ("a.=4", "--set: 'a.=4' is not of the form"),
        ("", "--set: '' is not of the form"),
        ("a b=4", "--set: 'a b=4' is not of the form"),
        ("train.batch_size=four", "--set: train.batch_size: must be a whole number, above 0, not 'four'"),
        ("train.batch_size='4'", "--set: train.batch_size: must be a whole number, above 0, not '4' (did you mean 4?)"),
        ("train.batch_size=", "--set: train.batch_size: must be a whole number, above 0, not ''"),
        ("train.batchsize=4", "--set: train.batchsize: unknown key; [train] takes batch_size, "),
        ("runn.seed=1", "--set: runn: unknown key; a recipe takes extends, format, run"),
        ("method.rank=4", "--set: method.rank: unknown key; 'lora' takes r, "),
        ("method.name=lorra", "--set: method.name: no method is called 'lorra' (did you mean 'lora'?)"),
        ("method=lora", '--set: method: must be a table: [method] and below it name = "lora"'),
        (
            "method.target_modules=[q,v]",
            "--set: method.target_modules: '[q,v]' is not valid TOML; quote strings",
        ),
        ('run.name="a', "--set: run.name: '\"a' is not valid TOML"),
        ("run.name='a", '--set: run.name: "\'a" is not valid TOML'),
        ("train.budget={steps=", "--set: train.budget: '{steps=' is not valid TOML"),
        ("run.name=2024-01-01", "--set: run.name: must be a text in quotes, matching"),
        ("run.name=a\nb", "--set: run.name: must be a text in quotes, matching"),
        ("run.seed=1\nb=2", "--set: run.seed: must be a whole number, at least 0, below 4294967296, not '1\\nb=2'"),
        (f"run.seed={'9' * 5000}", "--set: run.seed: must be a whole number"),
        ("metric.0.name=bleu", "--set: metric: must be a list of tables, each under [[metric]], not a table"),
        ("metric.².name=bleu", "--set: 'metric.².name=bleu' is not of the form"),
        (f"metric.{'9' * 5000}.name=bleu", "--set: metric: must be a list of tables"),
        ("a" + ".a" * 99 + "=1", "--set: a.a.a…: is nested too deep"),
        ("extends=base.toml", "--set: extends: unknown key"),
        ("model.name=pocket-t6", "--set: model.name: 'pocket-t6' is not a folder"),
    ],
)
def test_errors_of_overrides(override: str, expected: str, valid_recipe: str, check_errors: CheckErrors) -> None:
    [lines] = check_errors({"x.toml": valid_recipe}, override)
    assert lines.startswith(expected)


def test_all_invalid_overrides_are_reported(valid_recipe: str, check_errors: CheckErrors) -> None:
    text = valid_recipe + '[[metric]]\nname = "accuracy"\n'
    lines = check_errors({"x.toml": text}, "nothing", "metric.7.name=bleu", "track.wandb=[", "metric.0.x=1")
    assert [line.split(": ")[:2] for line in lines] == [
        ["--set", "'nothing' is not of the form key.path=value, such as train.batch_size=4"],
        ["--set", "track.wandb"],
        ["--set", "metric[7]"],
    ]
    assert lines[-1].endswith("element 7 does not exist; the list has 1, counted from 0")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["a=1"], {"a": 1, "t": {"x": 1, "l": [1, {"y": 2}]}}),
        ([" a = 1.5 "], {"a": 1.5, "t": {"x": 1, "l": [1, {"y": 2}]}}),
        (["t.x=text"], {"t": {"x": "text", "l": [1, {"y": 2}]}}),
        (["t.x=true"], {"t": {"x": True, "l": [1, {"y": 2}]}}),
        (['t.x=["a", 1]'], {"t": {"x": ["a", 1], "l": [1, {"y": 2}]}}),
        (["t.x=b=c"], {"t": {"x": "b=c", "l": [1, {"y": 2}]}}),
        (['t."a.b=c"=1'], {"t": {"x": 1, "l": [1, {"y": 2}], "a.b=c": 1}}),
        (["t.l.0=7", "t.l.1.y=8"], {"t": {"x": 1, "l": [7, {"y": 8}]}}),
        (["t.l=[5, 6]", "t.l.1=7"], {"t": {"x": 1, "l": [5, 7]}}),
        (["t.l.1=7", "t.l=[5, 6]"], {"t": {"x": 1, "l": [5, 7]}}),
        (["t.n.0=4", "t.n.0=5"], {"t": {"x": 1, "l": [1, {"y": 2}], "n": {"0": 5}}}),
        (["t=1"], {"t": 1}),
    ],
)
def test_overrides_change_a_recipe(overrides: list[str], expected: object, folder: Path) -> None:
    (folder / "x.toml").write_text("[t]\nx = 1\nl = [1, {y = 2}]\n", encoding="utf-8")
    assert load_raw(Path("x.toml"), overrides).data == expected


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_of_name_and_options_combine_in_any_order(order: int, folder: Path) -> None:
    (folder / "x.toml").write_text('[method]\nname = "a"\nold = 1\n', encoding="utf-8")
    raw = load_raw(Path("x.toml"), ["method.name=b", "method.new=2"][::order])
    assert raw.data == {"method": {"name": "b", "new": 2}}
    assert raw.origins[("method", "new")] == KeyLocation("overrides", None)
    assert ("method", "old") not in raw.origins


@pytest.mark.parametrize(
    ("base", "child", "expected"),
    [
        ({"name": "a", "r": 1}, {"name": "b"}, {"name": "b"}),
        ({"name": "a", "r": 1}, {"name": "a", "s": 2}, {"name": "a", "r": 1, "s": 2}),
        ({"name": "a", "r": 1}, {"s": 2}, {"name": "a", "r": 1, "s": 2}),
        ({"r": 1}, {"name": "b"}, {"r": 1, "name": "b"}),
        ({"name": "a", "d": {"x": 1}}, {"d": {"y": 2}}, {"name": "a", "d": {"x": 1, "y": 2}}),
        ({"name": "a", "d": [1]}, {"d": [2]}, {"name": "a", "d": [2]}),
    ],
)
@pytest.mark.parametrize("table", ["task", "method"])
def test_a_layer_with_another_component_drops_the_options_of_its_base(
    base: dict[str, object], child: dict[str, object], expected: object, table: str, folder: Path
) -> None:
    import tomli_w

    (folder / "b.toml").write_text(tomli_w.dumps({table: base}), encoding="utf-8")
    (folder / "x.toml").write_text('extends = "b.toml"\n' + tomli_w.dumps({table: child}), encoding="utf-8")
    assert load_raw(Path("x.toml")).data == {table: expected}


def test_bases_are_relative_to_the_file_that_names_them(folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.toml").write_text("[run]\nseed = 1\nname = 'a'\noutput = 'a'\n", encoding="utf-8")
    (folder / "deep" / "b.toml").write_text("extends = '../a.toml'\nrun = {name = 'b', output = 'b'}", encoding="utf-8")
    (folder / "deep" / "er" / "c.toml").write_text("extends = '../b.toml'\n\nrun.output = 'c'\n", encoding="utf-8")
    raw = load_raw(Path("deep/er/c.toml"))
    assert raw.data == {"run": {"seed": 1, "name": "b", "output": "c"}}
    lines = {key: raw.locate(("run", key)).line for key in ("seed", "name", "output")}
    assert lines == {"seed": 2, "name": 2, "output": 3}
    assert raw.locate(("run", "none")) == raw.locate(("run",))
    assert raw.locate(("train", "none")) == KeyLocation("deep/er/c.toml", 1)


def test_circular_extends_through_a_symlink_is_reported(folder: Path) -> None:
    (folder / "x.toml").symlink_to(folder / "y.toml")
    (folder / "y.toml").write_text("extends = 'x.toml'", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"y\.toml → y\.toml"):
        load_raw(Path("x.toml"))


def test_format_key_writes_toml_keys() -> None:
    assert format_key(("metric", 0, "name")) == "metric[0].name"
    assert format_key(("a-b", "c d", "")) == 'a-b."c d".""'
    assert format_key(()) == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_format_key_quotes_any_key_as_toml(key: str) -> None:
    text = format_key(("a b", key))
    assert tomllib.loads(f"{text} = 1") == {"a b": {key: 1}}
    escaped = sum(not c.isprintable() or c in '"\\' for c in key)
    assert text.count("\\") == escaped
