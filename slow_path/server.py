"""Starts a vLLM server that suits the slow path: what `guard serve-vlm MODEL` runs, and what tests and benchmarks use.

Bound to loopback, since vLLM's own routes are open; structured output without free white space, since a model can
fill a grammar with blanks until the token limit; images only, and no more than a prompt holds; no media domains,
since frames come as data URLs and nothing is to be fetched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from guard.errors import MissingExtra, VlmUnavailable

DEFAULT_MODEL = "Qwen/Qwen3-VL-2B-Instruct"
"""The size that the SafeLens paper uses for both stages."""

_SHIM = Path(__file__).parent / "cpu_shim"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server runs."""

    host: str = "127.0.0.1"
    port: int = 8000
    images: int = 16
    """Most images in one prompt; at least the frame budget of the judge."""
    max_model_len: int = 8192
    """Tokens of prompt and answer together."""
    dtype: str = "bfloat16"
    kv_cache_gib: int = 4
    """Memory for the key-value cache on a CPU machine; a GPU's is measured by vLLM itself."""
    threads: int | None = None
    """Compute threads on a CPU machine; None leaves it to vLLM."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters by the model name under which they are served."""
    served_name: str | None = None
    """Model name in requests; None is the name or path that was given."""
    extra: Sequence[str] = ()
    """Further arguments for vLLM, such as `--tensor-parallel-size 2`."""


def interpreter() -> Path:
    """Return the Python that has vLLM: `GUARD_VLLM_PYTHON`, this one, or that of `.venv-vllm` here or above.

    vLLM pins many packages, so it usually lives in an environment of its own.

    Raises:
        MissingExtra: there is none; the hint is the command that makes one.
    """
    named = os.environ.get("GUARD_VLLM_PYTHON")
    if named:
        return Path(named)
    if find_spec("vllm") is not None:
        return Path(sys.executable)
    for folder in (Path.cwd(), *Path.cwd().parents, Path(__file__).parent.parent):
        candidate = folder / ".venv-vllm" / "bin" / "python"
        if candidate.exists():
            return candidate
    raise MissingExtra(
        "A local VLM server needs vLLM, which is not installed.",
        hint="Run: make vllm-env (or set GUARD_VLLM_PYTHON to a Python that has vLLM).",
    )


def on_cpu() -> bool:
    """Whether this machine has no NVIDIA or AMD GPU that vLLM could use."""
    return not any(Path(device).exists() for device in ("/dev/nvidia0", "/dev/kfd"))


def command(
    model: str = DEFAULT_MODEL, settings: ServerSettings = ServerSettings(), *, cpu: bool | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the additional environment of a server for `model` (a hub name or a folder).

    Raises:
        MissingExtra: no vLLM is installed.
    """
    cpu = on_cpu() if cpu is None else cpu
    # Not the `vllm` script: the CPU build has another distribution name, which that script looks up in vain.
    argv = [str(interpreter()), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    argv += ["--host", settings.host, "--port", str(settings.port)]
    argv += ["--served-model-name", settings.served_name or model]
    argv += ["--dtype", settings.dtype, "--max-model-len", str(settings.max_model_len)]
    argv += ["--limit-mm-per-prompt", json.dumps({"image": settings.images, "video": 0})]
    argv += ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--max-logprobs", "20"]
    structured = {"backend": "xgrammar", "disable_any_whitespace": True}
    argv += ["--structured-outputs-config", json.dumps(structured)]
    argv += ["--allowed-media-domains", "none.invalid", "--generation-config", "vllm"]
    if settings.adapters:
        argv += ["--enable-lora", "--max-lora-rank", "64", "--lora-modules"]
        argv += [f"{name}={path}" for name, path in settings.adapters.items()]
    environment = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if Path(model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if cpu:
        argv += ["--enforce-eager"]
        environment |= _cpu_environment(settings)
    return [*argv, *settings.extra], environment


def _cpu_environment(settings: ServerSettings) -> dict[str, str]:
    path = os.pathsep.join(p for p in (str(_SHIM), os.environ.get("PYTHONPATH", "")) if p)
    environment = {"VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib), "PYTHONPATH": path}
    if settings.threads is not None:
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(settings.threads)}
    return environment


@dataclass(slots=True)
class Server:
    """A running server."""

    url: str
    """Base URL for OpenAI clients, ending in `/v1`."""
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        _signal(self.process, signal.SIGKILL)
        self.process.wait()

    def stop(self, *, grace_seconds: float = 15.0) -> None:
        """End the server and its children."""
        _signal(self.process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=grace_seconds)
        self.kill()

    def counters(self) -> dict[str, float]:
        """Return the server's own counters, summed over their labels, by Prometheus name."""
        return read_counters(self.url.removesuffix("/v1") + "/metrics")


@contextlib.contextmanager
def running(
    model: str,
    settings: ServerSettings | None = None,
    *,
    log: Path,
    ready_seconds: float = 600.0,
    niceness: int = 0,
) -> Iterator[Server]:
    """Start a server, wait until it answers, and stop it at the end.

    Args:
        model: hub name or folder.
        settings: without any, a free port is taken.
        log: file that receives the server's output.
        ready_seconds: how long it may take to come up; a CPU machine needs about a minute for a small model.
        niceness: added to the server's scheduling niceness.

    Raises:
        MissingExtra: no vLLM is installed.
        VlmUnavailable: it did not come up; the message has the end of its log.
    """
    settings = settings or ServerSettings(port=free_port())
    argv, extra = command(model, settings)
    if niceness:
        argv = ["nice", "-n", str(niceness), *argv]
    if shutil.which("setpriv"):  # Linux: a killed caller takes its server along instead of leaving it behind
        argv = ["setpriv", "--pdeathsig", "TERM", *argv]
    with log.open("wb") as output:
        # Its own session, so that the engine's children end with it. The arguments are a list; no shell reads them.
        process = subprocess.Popen(  # noqa: S603
            argv, env=os.environ | extra, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    server = Server(url=f"http://{settings.host}:{settings.port}/v1", process=process, log=log)
    try:
        _wait_ready(server, ready_seconds)
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_counters(url: str) -> dict[str, float]:
    """Return the samples of a Prometheus page, summed over labels."""
    with urllib.request.urlopen(url, timeout=10) as page:  # noqa: S310 - the address of our own server
        lines = page.read().decode().splitlines()
    totals: dict[str, float] = {}
    for line in lines:
        if line and not line.startswith("#"):
            name, value = line.partition("{")[0].split(" ")[0], line.rpartition(" ")[2]
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals


def _wait_ready(server: Server, seconds: float) -> None:
    health = server.url.removesuffix("/v1") + "/health"
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.process.poll() is None:
        if _answers(health):
            return
        time.sleep(0.5)
    tail = server.log.read_text(errors="replace")[-2000:]
    ended = server.process.poll()
    what = f"ended with status {ended}" if ended is not None else f"was not ready after {seconds:.0f} s"
    raise VlmUnavailable(f"The VLM server {what}. The end of its log:\n{tail}", hint=f"See {server.log}.")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as page:  # noqa: S310 - loopback
            return bool(page.status == 200)
    except OSError:
        return False


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
