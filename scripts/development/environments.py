"""The virtual environments of development, made with nothing but Python >= 3.11 and pip."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PLUGINS = sorted(file.parent.relative_to(ROOT).as_posix() for file in ROOT.glob("plugins/*/pyproject.toml"))


class StageError(Exception):
    """A stage failed; the message names the command or the remedy."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment for one line of transformers, created or updated when it is needed."""

    name: str
    transformers: str
    plugins: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    def tool(self, name: str) -> str:
        windows = os.name == "nt"
        return str(self.folder / ("Scripts" if windows else "bin") / (f"{name}.exe" if windows else name))

    def run(self, tool: str, *arguments: str, **variables: str) -> None:
        """Run a command of the environment in the repository."""
        self.prepare()
        run(self.tool(tool), *arguments, **variables)

    def prepare(self) -> None:
        """Install everything, unless the environment was made from the same files."""
        stamp, key = self.folder / "stamp", self._key()
        if stamp.is_file() and stamp.read_text() == key:
            return
        if Path(sys.prefix).resolve() == self.folder.resolve():
            raise StageError(f"{self.name} is out of date: deactivate it, so that it can be created again")
        with timed(f"{self.name}: transformers {self.transformers}, {torch_build().upper()} build of torch"):
            run(sys.executable, "-m", "venv", "--clear", str(self.folder))
            # torch first and alone: the other packages must neither choose its build nor query an index that has
            # nothing else.
            extra = ("--extra-index-url", CPU_INDEX) if torch_build() == "cpu" and cpu_index_answers() else ()
            self._pip(*extra, "torch")
            self.install(*(word for project in (".[dev]", *self.plugins) for word in ("-e", project)))
            self._check_torch()
        stamp.write_text(key)

    def install(self, *what: str) -> None:
        """Install packages in the tested versions."""
        pins = ("-c", "constraints/tested.txt", "-c", f"constraints/transformers-{self.transformers}.txt")
        self._pip(*pins, *what)

    def _key(self) -> str:
        # With the path, because an environment that was moved or copied does not work.
        digest = hashlib.sha256(repr((str(ROOT), sys.version, torch_build(), self)).encode())
        for pattern in ("pyproject.toml", "plugins/*/pyproject.toml", "constraints/*"):
            for file in sorted(ROOT.glob(pattern)):
                digest.update(file.read_bytes())
        return digest.hexdigest()

    def _pip(self, *arguments: str) -> None:
        constraints, log = f"constraints/{torch_build()}.txt", self.folder / "pip.log"
        print(f"   pip install -c {constraints} {' '.join(arguments)}  (log: {log.relative_to(ROOT)})", flush=True)
        # --no-compile: to compile everything takes longer than the installation; Python does it on first import.
        options = ("--no-compile", "--no-input", "--progress-bar=off", "--disable-pip-version-check", "-c", constraints)
        command = (self.tool("python"), "-m", "pip", "install", *options, *arguments)
        with log.open("w") as output:
            # DeepSpeed compiles its kernels when they are needed.
            variables = {**os.environ, "DS_BUILD_OPS": "0"}
            status = subprocess.run(
                command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT
            ).returncode
        if status:
            raise StageError("\n".join([f"see also {constraints}", *log.read_text().splitlines()[-15:]]))

    def _check_torch(self) -> None:
        # Test processes start at the same time: each would compile what none has imported yet.
        imports = "import torch, accelerate, datasets, evaluate, peft, transformers, peftkit.train.run"
        code = f"{imports}; print(torch.version.cuda or torch.version.hip or 'cpu', torch.cuda.is_available())"
        command = (self.tool("python"), "-c", code)
        output = subprocess.check_output(command, text=True, env=environment_variables())
        build, sees_gpu = output.split()[-2:]
        if torch_build() == "cpu" and build != "cpu":
            raise StageError(f"torch is built for a GPU ({build}), but there is none; see constraints/cpu.txt")
        if torch_build() == "gpu" and sees_gpu == "False":
            print("   torch does not see the GPU; see constraints/gpu.txt, or set PEFTKIT_TORCH=cpu", flush=True)


def torch_build() -> str:
    """Return ``gpu`` if there is an NVIDIA or AMD driver, else ``cpu``; ``PEFTKIT_TORCH`` overrides it."""
    gpu = any(map(os.path.exists, ("/dev/nvidia0", "/dev/kfd"))) or shutil.which("nvidia-smi")
    return os.environ.get("PEFTKIT_TORCH") or ("gpu" if gpu else "cpu")


def cpu_index_answers() -> bool:
    """Check that PyTorch's CPU index can be reached, because pip would retry for minutes."""
    if sys.platform != "linux":  # elsewhere the default index has the CPU build
        return False
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=3):  # noqa: S310 - it is https
            return True
    except OSError:
        return False


def environment_variables(**variables: str) -> dict[str, str]:
    """Return our environment variables and additional ones.

    Byte code is written even if the caller turned it off: otherwise every process would spend a dozen seconds compiling
    torch and transformers.
    """
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | variables


def run(*command: str, **variables: str) -> None:
    """Run a command in the repository with additional environment variables."""
    status = subprocess.run(
        command, cwd=ROOT, env=environment_variables(**variables), stdin=subprocess.DEVNULL
    ).returncode
    if status:
        raise StageError(f"{Path(command[0]).name} {' '.join(command[1:])}: exit code {status}")


@contextmanager
def timed(title: str) -> Iterator[None]:
    """Print a title, and afterwards the time it took."""
    print(f"== {title}", flush=True)
    start = time.monotonic()
    yield
    print(f"== {title}: {time.monotonic() - start:.0f} s", flush=True)


MAIN = Environment(".venv", "5")
ADAPTERS = Environment(".venv-adapters", "4.57", tuple(PLUGINS))
