"""Where things are kept, on machines whose home folder is not there, is read-only or is full."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest

from peftkit import cache
from peftkit.cache import cache_folder, use_writable_datasets_cache
from peftkit.errors import InputError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("PEFTKIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    forget()
    yield
    forget()


def forget() -> None:
    cache._cache_folder.cache_clear()
    cache._write_problem.cache_clear()


def blocked(path: Path) -> Path:
    """A folder that cannot be made, also not by root: a file stands where its parent would."""
    path.write_text("")
    return path / "folder"


def test_the_named_folder_comes_first_then_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "home" / ".cache" / "peftkit"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "peftkit"
    monkeypatch.setenv("PEFTKIT_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "home" / "mine"


def test_a_home_that_cannot_be_written_is_named_once_with_the_variable(
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


def test_nobody_s_home_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder().parent == tmp_path


def test_a_named_folder_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = blocked(tmp_path / "file")
    monkeypatch.setenv("PEFTKIT_CACHE", str(folder))
    with pytest.raises(InputError, match=rf"PEFTKIT_CACHE: '{folder}' is not writable \(Not a directory\)"):
        cache_folder()


def test_without_any_folder_both_variables_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = blocked(tmp_path / "file")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(InputError, match="set TMPDIR to one that is, and PEFTKIT_CACHE"):
        cache_folder()


def test_a_stranger_s_folder_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(blocked(tmp_path / "file")))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"peftkit-{cache.os.getuid()}").symlink_to(elsewhere)
    assert cache_folder() not in (elsewhere, tmp_path / f"peftkit-{cache.os.getuid()}")


def test_the_cache_of_datasets_is_moved_where_it_cannot_be_written(
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
