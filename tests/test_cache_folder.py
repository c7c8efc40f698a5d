"""The cache folder, also where the home folder is missing, read-only or full."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from peftkit import cache_folder as cache
from peftkit.cache_folder import cache_folder, use_writable_datasets_cache
from peftkit.errors import InputError
from peftkit.methods.peft_schema import configurations


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("PEFTKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    clear_caches()
    yield
    clear_caches()


def clear_caches() -> None:
    cache._cache_folder.cache_clear()
    cache._write_problem.cache_clear()


def blocked(path: Path) -> Path:
    """A folder that nobody can create, as its parent is a file."""
    path.write_text("")
    return path / "folder"


def test_peftkit_cache_precedes_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "home" / ".cache" / "peftkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "peftkit"
    monkeypatch.setenv("PEFTKIT_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"


def test_an_unwritable_home_is_warned_of_once_with_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", str(blocked(tmp_path / "file")))
    folder = cache_folder()
    assert folder.is_dir()
    assert folder.parent == tmp_path
    assert cache_folder() == folder
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "file" / "folder" / ".cache" / "peftkit") in record.getMessage()
    assert "PEFTKIT_CACHE moves it" in record.getMessage()


def test_a_missing_home_is_not_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().parent == tmp_path


def test_an_unwritable_peftkit_cache_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = blocked(tmp_path / "file")
    monkeypatch.setenv("PEFTKIT_CACHE", str(folder))
    with pytest.raises(InputError, match=rf"PEFTKIT_CACHE: '{folder}' is not writable \(Not a directory\)"):
        cache_folder()


@pytest.mark.one_line
def test_the_methods_of_peft_are_read_without_a_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEFTKIT_CACHE", str(blocked(tmp_path / "file")))
    read = configurations.__wrapped__()
    monkeypatch.setenv("PEFTKIT_CACHE", str(tmp_path / "folder"))
    assert read == configurations.__wrapped__() == configurations.__wrapped__()


def test_without_any_writable_folder_the_error_names_both_variables(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = blocked(tmp_path / "file")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(InputError, match="set TMPDIR to one that is, and PEFTKIT_CACHE"):
        cache_folder()


def test_a_symlink_in_the_temporary_folder_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(blocked(tmp_path / "file")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"peftkit-{cache.os.getuid()}").symlink_to(elsewhere)
    assert cache_folder() not in (elsewhere, tmp_path / f"peftkit-{cache.os.getuid()}")


def test_an_unwritable_datasets_cache_is_moved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, name, blocked(tmp_path / name))
    use_writable_datasets_cache()
    assert cache_folder() / "datasets" == datasets.config.HF_DATASETS_CACHE
    rows = tmp_path / "rows.csv"
    rows.write_text("a\n1\n")
    assert len(datasets.load_dataset("csv", data_files=str(rows), split="train")) == 1
    assert "HF_HOME or HF_DATASETS_CACHE moves it" in caplog.text
