"""Serves the report of runs, and their progress, on this machine's loopback address. Nothing is written."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from peftkit.compare.input.load_runs import run_folders
from peftkit.errors import PeftkitError

ADDRESS = "127.0.0.1"
READ_FILES = ("summary.json", "evaluations.jsonl", "baselines.json", "../tuning.json", "harness.json")
"""Files of a finished run whose change makes the report out of date."""
FRAME_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class LiveReport:
    """The report of folders, which is rebuilt when their finished runs change.

    Args:
        folders: Run directories, or folders that contain them.
        render: Makes the page; it may raise a ``PeftkitError``, whose text is then shown in its place.
        describe: Describes the progress of a folder: its number of runs, of finished ones, and a line of text.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        render: Callable[[], str],
        describe: Callable[[Path], tuple[int, int, str]],
    ) -> None:
        self.folders, self.render, self.describe = folders, render, describe
        self._lock = threading.Lock()
        self._built: tuple[str, bytes] | None = None

    def version(self) -> str | None:
        """A text that changes with the finished runs; None if there are none."""
        digest = hashlib.sha256()
        any_finished = False
        for run in sorted(run_folders(self.folders)):
            if not (run / "summary.json").is_file():
                continue
            any_finished = True
            for name in READ_FILES:
                try:
                    status = (run / name).stat()
                except OSError:
                    continue
                digest.update(f"{run}/{name} {status.st_mtime_ns} {status.st_size}\n".encode())
        return digest.hexdigest()[:16] if any_finished else None

    def page(self, version: str) -> bytes:
        """The report, from memory if it was built for this version.

        Args:
            version: What ``version`` returned.
        """
        with self._lock:  # one request builds it, and others wait for that
            if self._built is None or self._built[0] != version:
                self._built = version, self._build().encode()
            return self._built[1]

    def progress(self) -> dict[str, Any]:
        """What the page shows of the progress, and the version of the report."""
        total = done = 0
        lines = []
        for folder in self.folders:
            try:
                runs, finished, line = self.describe(folder)
            except PeftkitError as error:  # such as a folder without a run so far
                runs, finished, line = 0, 0, str(error)
            total, done = total + runs, done + finished
            lines.append(line)
        return {"total": total, "done": done, "lines": lines, "report": self.version()}

    def _build(self) -> str:
        import html

        try:
            return self.render()
        except PeftkitError as error:  # runs that cannot be compared, so far
            return f'<!DOCTYPE html><html lang="en"><title>No report</title><pre>{html.escape(str(error))}</pre></html>'


class ReportServer(ThreadingHTTPServer):
    """A server for this machine alone.

    Args:
        report: What is served.
        port: The port; 0 for any free one.
    """

    daemon_threads = True

    def __init__(self, report: LiveReport, port: int) -> None:
        super().__init__((ADDRESS, port), partial(_Handler, report))

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "peftkit", ""
    timeout = 30

    def __init__(self, report: LiveReport, *arguments: Any) -> None:
        self.report = report
        super().__init__(*arguments)

    def parse_request(self) -> bool:
        """Refuse every method but GET and HEAD, and hosts other than this machine.

        A page of another site can make its own name point to this machine, and its script would then read the runs
        (DNS rebinding); its requests name that host.
        """
        if not super().parse_request():
            return False
        if self.command not in ("GET", "HEAD"):
            self.close_connection = True
            self._send(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", "text/plain", Allow="GET, HEAD")
            return False
        port = int(cast("tuple[str, int]", self.server.server_address)[1])
        hosts = {f"{name}:{port}" for name in (ADDRESS, "localhost")} | (
            {ADDRESS, "localhost"} if port == 80 else set()
        )
        if self.headers.get_all("Host", []) not in [[host] for host in hosts]:
            self.close_connection = True
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"only for this machine\n", "text/plain")
            return False
        return True

    def do_GET(self) -> None:  # the name that the library calls
        """Answer one of three paths; no path names a file."""
        path = urlsplit(self.path).path
        try:
            if path == "/":
                page = (files("peftkit") / "assets" / "live" / "page.html").read_bytes()
                self._send_tagged(page, "text/html; charset=utf-8", **{"Content-Security-Policy": FRAME_POLICY})
            elif path == "/progress.json":
                self._send_tagged(json.dumps(self.report.progress()).encode(), "application/json")
            elif path == "/report" and (version := self.report.version()) is not None:
                self._send_report(version)
            else:
                self._send(HTTPStatus.NOT_FOUND, b"not found\n", "text/plain")
        except PeftkitError as error:  # such as a folder that was removed
            self._send(HTTPStatus.NOT_FOUND, f"{error}\n".encode(), "text/plain; charset=utf-8")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: Any) -> None:  # the library's name
        """Print nothing: the page asks every few seconds."""

    def _send_report(self, version: str) -> None:
        if self.headers.get("If-None-Match") == f'"{version}"':
            self._send(HTTPStatus.NOT_MODIFIED, b"", "text/html; charset=utf-8", ETag=f'"{version}"')
        else:
            self._send(HTTPStatus.OK, self.report.page(version), "text/html; charset=utf-8", ETag=f'"{version}"')

    def _send_tagged(self, body: bytes, content_type: str, **headers: str) -> None:
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", content_type, ETag=tag)
        else:
            self._send(HTTPStatus.OK, body, content_type, ETag=tag, **headers)

    def _send(self, status: HTTPStatus, body: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": content_type,
            "Cache-Control": "no-cache",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in (fixed | headers).items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
