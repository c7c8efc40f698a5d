"""The server shows the report on this machine alone, and rebuilds it only when runs change."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftkit.errors import InputError
from peftkit.live.server import LiveReport, ReportServer


class Counted(LiveReport):
    """A report of a line, which counts how often it is built."""

    def __init__(self, folder: Path) -> None:
        self.built = 0
        super().__init__([folder], self._make, lambda folder: (2, 1, f"{folder.name}: 1 of 2 runs done"))

    def _make(self) -> str:
        self.built += 1
        return f"report {self.built}"


@pytest.fixture
def report(tmp_path: Path) -> Counted:
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    for name in ("recipe.toml", "summary.json"):
        (run / name).write_text("{}")
    return Counted(tmp_path / "runs")


@pytest.fixture
def server(report: Counted) -> Iterator[ReportServer]:
    with ReportServer(report, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ReportServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def test_an_unchanged_report_is_built_and_sent_once(server: ReportServer, report: Counted, tmp_path: Path) -> None:
    status, headers, body = ask(server, "/report")
    assert (status, body) == (200, "report 1")
    assert ask(server, "/report", If_None_Match=headers["ETag"])[::2] == (304, "")
    assert ask(server, "/report?anything")[2] == "report 1"
    (tmp_path / "runs" / "one" / "summary.json").write_text('{"a": 1}')
    status, changed, body = ask(server, "/report", If_None_Match=headers["ETag"])
    assert (status, body, report.built) == (200, "report 2", 2)
    assert json.loads(ask(server, "/progress.json")[2])["report"] == changed["ETag"].strip('"')


def test_progress(server: ReportServer, tmp_path: Path) -> None:
    _, headers, body = ask(server, "/progress.json")
    document = json.loads(body)
    assert (document["total"], document["done"], document["lines"]) == (2, 1, ["runs: 1 of 2 runs done"])
    assert ask(server, "/progress.json", If_None_Match=headers["ETag"])[0] == 304
    (tmp_path / "runs" / "one" / "summary.json").unlink()
    assert json.loads(ask(server, "/progress.json")[2])["report"] is None
    assert ask(server, "/report")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/..", "/../../etc/passwd", "/%2e%2e/recipe.toml", "/runs/", "/one/recipe.toml", "//etc/passwd", "/report/"],
)
def test_no_path_names_a_file(server: ReportServer, path: str) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_only_get_and_head(server: ReportServer, method: str) -> None:
    status, headers, _ = ask(server, "/", method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost.evil:{port}", ""])
def test_other_hosts_are_refused(server: ReportServer, host: str) -> None:
    assert ask(server, "/report", Host=host.format(port=server.server_port))[0] == 421
    assert ask(server, "/report", Host=f"localhost:{server.server_port}")[0] == 200


def test_head_has_no_body_and_the_page_loads_nothing_from_elsewhere(server: ReportServer) -> None:
    status, headers, body = ask(server, "/", "HEAD")
    assert (status, body) == (200, "")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    page = ask(server, "/")[2]
    assert int(headers["Content-Length"]) == len(page.encode())
    assert "http:" not in page
    assert "https:" not in page


def test_runs_that_cannot_be_compared_are_explained(report: Counted) -> None:
    def fail() -> str:
        raise InputError("no <runs>")

    report.render = fail
    assert "no &lt;runs&gt;" in report.page("x").decode()
