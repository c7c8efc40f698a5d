from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from peftkit.errors import InputError
from peftkit.inference import push as push_module
from peftkit.inference.push import push
from peftkit.plugins import Registry
from peftkit.train.run import run
from tests.tiny_runs import Make

TOKEN = "hf_" + "q" * 34
ROOT = Path(__file__).parents[2]


class Hub(ThreadingHTTPServer):
    """A fake hub that accepts commits: small files inline, weights as LFS."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.stored: dict[str, bytes] = {}
        self.message = ""


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, 401)
        elif self.path == "/api/repos/create":
            repository = json.loads(body)
            self.server.repositories.append(repository)
            self._answer(
                {
                    "url": f"{self.server.endpoint}/somebody/{repository['name']}",
                    "name": f"somebody/{repository['name']}",
                }
            )
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            requested = json.loads(body)["files"]
            modes = [("lfs" if f["path"].endswith(".safetensors") else "regular", f["path"]) for f in requested]
            self._answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for m, p in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [
                {**o, "actions": {"upload": {"href": f"{self.server.endpoint}/store/{o['oid']}"}}} for o in objects
            ]
            self._answer({"transfer": "basic", "objects": upload})
        elif self.path.endswith("/commit/main"):
            self._commit([json.loads(line) for line in body.decode().splitlines()])
        else:
            self._answer({"error": self.path}, 404)

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self._body()
        self._answer({})

    def do_GET(self) -> None:
        self._answer({"id": "somebody/colours", "sha": "0" * 40, "siblings": [], "xetEnabled": False})

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            match line:
                case {"key": "header", "value": value}:
                    self.server.message = value["summary"]
                case {"key": "file", "value": value}:
                    self.server.files[value["path"]] = base64.b64decode(value["content"])
                case {"key": "lfsFile", "value": value}:
                    self.server.files[value["path"]] = self.server.stored[value["oid"]]
        url = f"{self.server.endpoint}/somebody/colours/commit/{'1' * 40}"
        self._answer(
            {"success": True, "commitOid": "1" * 40, "commitUrl": url, "hookOutput": "", "pullRequestUrl": None}
        )

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: dict[str, Any], code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def finished(make: Make, registry: Registry) -> Path:
    path = run(make("decoder", "method.name=lora", "train.budget.steps=2"), registry)
    assert path is not None
    return path


CHILD = """
import sys
from pathlib import Path
from peftkit.errors import PeftkitError
from peftkit.inference import push as push_module
from peftkit.inference.push import push
from tests.tiny_runs import registry_with_test_components
try:
    print(push(Path(sys.argv[1]), registry_with_test_components(), sys.argv[2], private=True))
except PeftkitError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def pushed(hub: Hub, path: Path, token: str) -> subprocess.CompletedProcess[str]:
    """Pushes in a separate process, as the hub's client reads its settings at import."""
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", CHILD, str(path), "somebody/colours"]
    return subprocess.run(command, env={**os.environ, **settings}, cwd=ROOT, capture_output=True, text=True)


def test_a_push_uploads_the_exported_files(hub: Hub, finished: Path) -> None:
    done = pushed(hub, finished, TOKEN)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.endpoint}/somebody/colours/commit/{'1' * 40}"
    [repository] = hub.repositories
    assert repository["name"] == "colours"
    assert repository.get("private") or repository["visibility"] == "private"  # depends on the client's version
    peft_files = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(hub.files) == {"README.md", "recipe.toml", "summary.json", *peft_files}
    assert hub.files["adapter_model.safetensors"] == (finished / "model/adapter_model.safetensors").read_bytes()
    assert {hashlib.sha256(value).hexdigest() for value in hub.stored.values()} == set(hub.stored)
    assert b"`colours` with `lora`" in hub.files["README.md"]
    assert hub.message.startswith(f"{finished.name}, by peftkit ")


def test_a_rejected_token_is_an_error_without_the_token(hub: Hub, finished: Path) -> None:
    wrong = "hf_" + "w" * 34
    done = pushed(hub, finished, wrong)
    assert done.returncode == 1
    assert f"somebody/colours on {hub.endpoint}" in done.stderr
    assert "401" in done.stderr
    assert "push again" in done.stderr
    assert wrong not in done.stderr + done.stdout
    assert hub.files == {}


def test_an_unreachable_hub_is_an_error(hub: Hub, finished: Path) -> None:
    hub.endpoint = "http://127.0.0.1:9"
    done = pushed(hub, finished, TOKEN)
    assert done.returncode == 1
    assert "somebody/colours on http://127.0.0.1:9" in done.stderr


def test_nothing_is_pushed_without_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, registry: Registry) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push_module, "get_token", lambda: None)
    with pytest.raises(InputError, match="no token found; log in with `hf auth login`"):
        push(tmp_path, registry, "somebody/colours")


def test_nothing_is_pushed_offline(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        push(tmp_path, registry, "somebody/colours")


@pytest.mark.parametrize("name", ["a/b/c", "../up", "some body/x", ""])
def test_invalid_repository_names_are_rejected(name: str, tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(InputError, match="is not a valid repository"):
        push(tmp_path, registry, name)
