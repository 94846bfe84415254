from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from guard.errors import MissingExtra, VlmUnavailable
from slow_path import server
from slow_path.server import ServerSettings, command


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUARD_VLLM_PYTHON", sys.executable)


def value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_binds_to_loopback_and_fetches_nothing() -> None:
    argv, _ = command("some/model")
    assert value(argv, "--host") == "127.0.0.1"
    assert value(argv, "--allowed-media-domains").endswith(".invalid")
    assert json.loads(value(argv, "--limit-mm-per-prompt")) == {"image": 16, "video": 0}
    assert "--trust-remote-code" not in argv


def test_decodes_without_free_white_space_and_shares_prefixes() -> None:
    argv, _ = command("some/model")
    structured = json.loads(value(argv, "--structured-outputs-config"))
    assert structured == {"backend": "xgrammar", "disable_any_whitespace": True}
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(argv)


def test_a_cpu_machine_gets_the_shim_and_a_gpu_machine_does_not() -> None:
    argv, environment = command("some/model", ServerSettings(kv_cache_gib=2, threads=1), cpu=True)
    assert "--enforce-eager" in argv
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    shim = Path(environment["PYTHONPATH"].split(":")[0])
    assert (shim / "sitecustomize.py").is_file()
    argv, environment = command("some/model", cpu=False)
    assert "--enforce-eager" not in argv
    assert "PYTHONPATH" not in environment


def test_a_local_folder_is_served_offline_and_adapters_by_name(tmp_path: Path) -> None:
    settings = ServerSettings(adapters={"tuned": tmp_path / "a"}, served_name="base")
    argv, environment = command(str(tmp_path), settings)
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert value(argv, "--lora-modules") == f"tuned={tmp_path / 'a'}"
    assert value(argv, "--served-model-name") == "base"
    assert "HF_HUB_OFFLINE" not in command("some/model")[1]


def test_without_vllm_the_error_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GUARD_VLLM_PYTHON")
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    monkeypatch.setattr(server, "__file__", str(tmp_path / "a" / "server.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtra) as caught:
        command("some/model")
    assert "make vllm-env" in caught.value.hint
    made = tmp_path / ".venv-vllm" / "bin" / "python"
    made.parent.mkdir(parents=True)
    made.touch()
    assert command("some/model")[0][0] == str(made)


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho no such model\nexit 3\n")
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUARD_VLLM_PYTHON", str(script))
        never = server.running("m", log=tmp_path / "log")
        with pytest.raises(VlmUnavailable, match="ended with status 3") as caught, never:
            pytest.fail("it never came up")
    assert "no such model" in caught.value.message


def test_a_server_that_never_answers_is_stopped(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUARD_VLLM_PYTHON", str(script))
        never = server.running("m", log=tmp_path / "log", ready_seconds=1)
        with pytest.raises(VlmUnavailable, match="not ready after 1 s"), never:
            pytest.fail("it never came up")


def test_a_killed_caller_leaves_no_server_behind(tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    script.chmod(0o755)
    code = (
        "from pathlib import Path; from slow_path import server\n"
        f"with server.running('m', log=Path('{tmp_path}/log')): pass"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"GUARD_VLLM_PYTHON": str(script)})
    until = time.monotonic() + 30
    while not (tmp_path / "pid").exists() and time.monotonic() < until:
        time.sleep(0.05)
    started = int((tmp_path / "pid").read_text())
    caller.kill()
    caller.wait()
    while psutil.pid_exists(started) and time.monotonic() < until:
        time.sleep(0.05)
    assert not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE


def test_counters_are_summed_over_labels(tmp_path: Path) -> None:
    page = tmp_path / "metrics"
    page.write_text('# HELP x y\nhits_total{engine="0"} 3.0\nhits_total{engine="1"} 4.0\nplain 5\n')
    assert server.read_counters(page.as_uri()) == {"hits_total": 7.0, "plain": 5.0}
