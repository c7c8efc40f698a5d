from __future__ import annotations

import http.client
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from peftkit.live.server import ReportServer
from tests.cli.conftest import Peftkit


def test_serve_shows_the_report_until_it_is_interrupted(
    peftkit: Peftkit, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, Any] = {}

    def serve(self: ReportServer) -> None:
        for path in ("/progress.json", "/report"):
            thread = threading.Thread(target=self.handle_request)
            thread.start()
            connection = http.client.HTTPConnection("127.0.0.1", self.server_port, timeout=20)
            connection.request("GET", path)
            answers[path] = connection.getresponse().read().decode()
            connection.close()
            thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(ReportServer, "serve_forever", serve)
    code, out, err = peftkit("serve", str(runs), "--port", "0")
    assert code == 0
    assert out.startswith("http://127.0.0.1:")
    assert "Ctrl-C" in err
    progress = json.loads(answers["/progress.json"])
    assert (progress["done"], progress["total"]) == (6, 6)
    assert "6 runs of 2 methods" in answers["/report"]


def test_serve_names_what_is_wrong(peftkit: Peftkit, runs: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, _, err = peftkit("serve", str(runs), "--port", str(taken.getsockname()[1]))
        assert (code, "choose another --port" in err) == (2, True)
    assert peftkit("serve", "nowhere")[0] == 2
    assert peftkit("serve", str(runs), "--port", "65536")[0] == 2
