"""`guard text`: one line of JSON per text, whatever the text is."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from serve import cli
from serve.failures import Exit
from serve.texts import MAX_LINE_BYTES, json_lines, plain_lines

SPAM = "WINNER! Claim your prize of 900 pounds now, call 09061701461 to collect"
FINE = "What a lovely day we had at the park with the children"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, list[dict[str, Any]], str]:
        monkeypatch.setattr(sys, "argv", ["guard", "text", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), [json.loads(line) for line in out.splitlines()], err

    return run


def test_texts_of_the_command_line_get_one_line_each(guard: Any) -> None:
    code, lines, _ = guard(SPAM, FINE, "--policy", "spam")
    assert (code, [line["decision"] for line in lines]) == (Exit.OK, ["block", "allow"])
    assert [line["source"] for line in lines] == ["argument 1", "argument 2"]
    assert guard(SPAM, "--policy", "spam", "--fail-on", "block")[0] == Exit.FAIL_ON_MATCHED
    assert guard(FINE)[1][0]["policy"]["name"] == "screen-text"


def test_lines_of_json_keep_their_place_and_their_ids(guard: Any) -> None:
    texts = [json.dumps(SPAM), json.dumps({"id": "c7", "text": FINE}), "not json", json.dumps({"body": 1}), ""]
    stdin = "\n".join([*texts, json.dumps({"id": 9, "text": SPAM, "lang": "en"})]).encode() + b"\n\xff\xfe\n"
    code, lines, _ = guard("-", "--policy", "spam", stdin=stdin)
    assert code == Exit.SOME_UNDECIDED
    assert [line["source"] for line in lines] == ["stdin:1", "c7", "stdin:3", "stdin:4", "9", "stdin:7"]
    assert [line["decision"] for line in lines] == ["block", "allow", "undecided", "undecided", "block", "undecided"]
    assert "is not JSON" in lines[2]["error"]["message"]
    assert "an object with body" in lines[3]["error"]["message"]
    assert "not UTF-8" in lines[5]["error"]["message"]


def test_plain_lines_are_texts_as_they_stand(guard: Any) -> None:
    _, lines, _ = guard("-", "--plain", "--policy", "spam", stdin=f'{SPAM}\r\n"{FINE}\n\n'.encode())
    assert [line["decision"] for line in lines] == ["block", "allow", "allow"]


def test_without_texts_what_is_piped_in_is_read_and_a_terminal_is_told_what_to_do(
    guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, lines, _ = guard("--plain", "--policy", "spam", stdin=f"{SPAM}\n{FINE}\n".encode())
    assert [line["decision"] for line in lines] == ["block", "allow"]
    assert guard("--policy", "spam", stdin=json.dumps(SPAM).encode())[1][0]["decision"] == "block"
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    code, lines, err = guard()
    assert (code, lines, "nothing is piped in" in err, "--plain" in err) == (Exit.USAGE, [], True, True)


def test_a_slow_path_that_is_down_is_said_and_allows_nothing(guard: Any) -> None:
    code, lines, _ = guard("Погода сегодня хорошая", "--policy", "spam", "--slow", "http://127.0.0.1:9/v1")
    assert (code, lines[0]["decision"], lines[0]["degraded"]) == (Exit.BACKEND_DOWN, "review", True)
    assert lines[0]["error"]["code"] == "vlm_unavailable"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x", "--plain"], "--plain speaks of lines"),
        (["-", "x"], "alone"),
        (["x", "--fail-on", "allow"], "review or block"),
        (["x", "--policy", "spamm"], "Did you mean"),
    ],
)
def test_wrong_requests_say_what_is_wrong(guard: Any, arguments: list[str], said: str) -> None:
    code, lines, err = guard(*arguments)
    assert (code, lines) == (Exit.USAGE, [])
    assert said in err


def test_a_line_without_end_does_not_fill_memory_with_verdicts() -> None:
    (found,) = plain_lines([b"a" * (MAX_LINE_BYTES + 1)])
    assert found.error is not None
    assert found.error.code == "too_large"


def test_deeply_nested_json_is_refused_and_not_followed() -> None:
    (found,) = json_lines([b"[" * 100_000])
    assert found.error is not None
    assert found.error.code == "input_unreadable"
