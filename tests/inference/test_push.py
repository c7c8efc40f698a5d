from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from peftkit.errors import InputError
from peftkit.inference import push as push_module
from peftkit.inference.push import push
from peftkit.plugins import Registry
from peftkit.testing.processes import free_port
from peftkit.train.run import run
from tests.tiny_runs import recipe_maker

TOKEN = "hf_" + "q" * 34
ROOT = Path(__file__).parents[2]


class Hub(ThreadingHTTPServer):
    """A fake hub that accepts commits: small files inline, weights as LFS."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Answers)
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


CHILD = """
import json, sys
from functools import partial
from pathlib import Path
from peftkit.errors import PeftkitError
from peftkit.inference.push import push
from peftkit.testing.processes import command
from tests.tiny_runs import registry_with_test_components

registry = registry_with_test_components()

def push_run(path):
    try:
        print(push(Path(path), registry, "somebody/colours", private=True))
    except PeftkitError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0

for line in sys.stdin:
    path, token = json.loads(line)
    done = command(partial(push_run, path), HF_TOKEN=token)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture
def hub(port: int) -> Iterator[Hub]:
    with Hub(port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def finished(models: dict[str, Path], registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make = recipe_maker(models, registry, tmp_path_factory.mktemp("finished"))
    path = run(make("decoder", "method.name=lora", "train.budget.steps=2"), registry)
    assert path is not None
    return path


Push = Callable[[Path, str], tuple[int, str, str]]


@pytest.fixture(scope="module")
def pushed(port: int) -> Iterator[Push]:
    """Pushes a run with a token; returns the exit code, and what was written to the standard output and error.

    The hub's client reads its settings at import, so a new process imports it once, and forks for each push.
    """
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HUB_DISABLE_XET": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD],
        env={**os.environ, **settings},
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def push_run(path: Path, token: str) -> tuple[int, str, str]:
            print(json.dumps([str(path), token]), file=process.stdin, flush=True)
            code, output, errors = json.loads(process.stdout.readline())
            return code, output, errors

        yield push_run


@pytest.mark.slow
def test_a_push_uploads_the_exported_files(hub: Hub, finished: Path, pushed: Push) -> None:
    code, output, errors = pushed(finished, TOKEN)
    assert code == 0, errors
    assert output.strip() == f"{hub.endpoint}/somebody/colours/commit/{'1' * 40}"
    [repository] = hub.repositories
    assert repository["name"] == "colours"
    assert repository.get("private") or repository["visibility"] == "private"  # depends on the client's version
    peft_files = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(hub.files) == {"README.md", "recipe.toml", "summary.json", *peft_files}
    assert hub.files["adapter_model.safetensors"] == (finished / "model/adapter_model.safetensors").read_bytes()
    assert {hashlib.sha256(value).hexdigest() for value in hub.stored.values()} == set(hub.stored)
    assert b"`colours` with `lora`" in hub.files["README.md"]
    assert hub.message.startswith(f"{finished.name}, by peftkit ")


@pytest.mark.slow
def test_a_rejected_token_is_an_error_without_the_token(hub: Hub, finished: Path, pushed: Push) -> None:
    wrong = "hf_" + "w" * 34
    code, output, errors = pushed(finished, wrong)
    assert code == 1
    assert f"somebody/colours on {hub.endpoint}" in errors
    assert "401" in errors
    assert "push again" in errors
    assert wrong not in errors + output
    assert hub.files == {}


@pytest.mark.slow
def test_an_unreachable_hub_is_an_error(port: int, finished: Path, pushed: Push) -> None:
    code, _, errors = pushed(finished, TOKEN)  # nothing listens without the fixture `hub`
    assert code == 1
    assert f"somebody/colours on http://127.0.0.1:{port}" in errors


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
