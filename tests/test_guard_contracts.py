"""Errors, taxonomy, plug-ins, settings, the JSON form, and the promise of a light import."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from builders import coverage, judgement, policy, route, scores, video
from hypothesis import given
from hypothesis import strategies as st

import guard
from guard import errors, plugins, taxonomy, verdict_json
from guard.config import load_settings
from guard.errors import InvalidConfig, UnknownPart
from guard.types import ErrorInfo, Rule, Thresholds
from guard.verdict import Evidence, decide, failed

FIGHT = "violence.fighting"


def test_import_guard_is_light() -> None:
    heavy = ("torch", "transformers", "fastapi", "vllm", "cv2", "av")
    code = f"import sys, guard; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_exported_names_are_sorted_and_there() -> None:
    assert guard.__all__ == sorted(guard.__all__)
    assert all(hasattr(guard, name) for name in guard.__all__)


def test_every_error_has_its_own_code_and_stands_in_the_tree() -> None:
    found = [e for e in errors.all_errors() if e.__module__ == errors.__name__]  # `serve` adds those of requests
    codes = [e.code for e in found]
    assert len(set(codes)) == len(codes)
    for error in found:
        assert error.__name__ in (errors.__doc__ or ""), f"{error.__name__} is missing in the tree of the docstring"
        assert error("what").info().hint
    assert errors.error_for_code("truncated") is errors.Truncated
    assert errors.error_for_code("nonsense") is errors.GuardError


def test_taxonomy_parents_come_first_and_mappings_are_known() -> None:
    seen: set[str] = set()
    for identifier, category in taxonomy.categories().items():
        assert category.parent is None or category.parent in seen
        assert category.openai is None or category.openai in taxonomy.OPENAI_KEYS
        assert category.dsa is None or category.dsa.startswith("STATEMENT_CATEGORY_")
        seen.add(identifier)


def test_unknown_category_gets_a_suggestion() -> None:
    assert taxonomy.suggestion("violence.figthing") == FIGHT
    assert taxonomy.suggestion("zzzzzz") is None
    assert taxonomy.is_known("custom.parkour")
    assert not taxonomy.is_known("custom.")
    assert not taxonomy.is_known("violence.figthing")


def test_covers_is_by_path_and_not_by_prefix() -> None:
    assert taxonomy.covers("violence", FIGHT)
    assert not taxonomy.covers(FIGHT, "violence")
    assert not taxonomy.covers("violence.fight", FIGHT)


def test_unknown_part_names_those_there_are() -> None:
    with pytest.raises(UnknownPart, match="Did you mean 'pyav'"):
        plugins.module("reader", "pyva")
    with pytest.raises(UnknownPart, match="No kind of part"):
        plugins.names("nothing")


def test_missing_extra_names_a_command_that_works_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(plugins.__file__).parents[1]
    monkeypatch.setattr(plugins.shutil, "which", lambda name: "/usr/bin/pip")
    pip = f"{sys.executable} -m pip"
    monkeypatch.chdir(root)
    assert plugins.missing_extra("The reader 'decord'", "decord").hint == f"Run: {pip} install -e '.[decord]'"
    monkeypatch.chdir(tmp_path)
    assert plugins.install_command("slow") == f"{pip} install -e '{root}[slow]'"
    monkeypatch.setattr(plugins, "__file__", str(tmp_path / "site-packages" / "guard" / "plugins.py"))
    assert plugins.install_command("slow") == f"{pip} install 'video-guard[slow]'"
    monkeypatch.setattr(plugins.shutil, "which", lambda name: str(Path(sys.executable).parent / "pip"))
    assert plugins.install_command("slow") == "pip install 'video-guard[slow]'", "the pip of this very interpreter"


def test_settings_come_from_file_then_environment_then_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "guard.toml"
    file.write_text("seed = 1\nworkers = 3\nmax_gap_seconds = 0.5\n")
    monkeypatch.setenv("GUARD_WORKERS", "5")
    found = load_settings(file, seed=9, policy=None)
    assert (found.seed, found.workers, found.max_gap_seconds, found.policy) == (9, 5, 0.5, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "Did you mean 'seed'"),
        ("workers = 0", "The setting 'workers' is 0"),
        ("workers = ", "is not TOML"),
        ("[limits]\nmax_secs = 'x'", "limits"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "guard.toml"
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=message):
        load_settings(file)


def test_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_settings(tmp_path / "none.toml")


def full_verdict() -> guard.Verdict:
    rules = policy(Rule(category=FIGHT, state="block", thresholds=Thresholds(clear_below=0.2, block_at=0.8)))
    case = Evidence(
        video=video("a\nb\udce9.mp4".encode("utf-8", "replace").decode()),
        policy=rules,
        scores=[scores({FIGHT: 0.5})],
        route=route("slow", uncertain=(FIGHT,)),
        coverage=coverage(),
        judgement=judgement({FIGHT: "yes"}),
    )
    return decide(case)


def test_json_form_round_trips_and_fits_its_schema() -> None:
    for verdict in (
        full_verdict(),
        failed(source="x", sha256=None, policy=policy(), error=ErrorInfo(code="c", message="m")),
    ):
        plain = verdict_json.to_dict(verdict)
        jsonschema.validate(plain, verdict_json.schema())
        assert verdict_json.from_dict(json.loads(json.dumps(plain))) == verdict


def test_json_form_refuses_what_is_not_a_verdict() -> None:
    plain = verdict_json.to_dict(full_verdict())
    with pytest.raises(ValueError, match="decision"):
        verdict_json.from_dict(plain | {"decision": "maybe"})
    with pytest.raises(ValueError, match="nonsense"):
        verdict_json.from_dict(plain | {"nonsense": 1})


@given(st.text(max_size=40))
def test_any_text_is_carried_by_the_json_form(text: str) -> None:
    verdict = failed(source=text, sha256=None, policy=policy(), error=ErrorInfo(code="c", message=text))
    assert verdict_json.from_dict(json.loads(json.dumps(verdict_json.to_dict(verdict)))).source == text
