"""Tokens: what is sealed opens once, for its purpose, in time, unaltered."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import InvalidConfig
from serve.signing import Signer, TokenError, load_secret

SIGNER = Signer(b"s" * 32)
TOKEN = SIGNER.seal("cursor", {"after": "job_1", "tenant": "a"}, seconds=60, now=1000)


def test_a_token_opens_to_what_was_sealed_until_it_expires() -> None:
    assert SIGNER.open("cursor", TOKEN, now=1060) == {"after": "job_1", "tenant": "a"}
    with pytest.raises(TokenError, match="expired"):
        SIGNER.open("cursor", TOKEN, now=1061)


@pytest.mark.parametrize(
    "token", ["", ".", "a.b", "a.b.c", "*.*", f"{TOKEN}A", TOKEN[:-1], "x" * 5000, "ä.ö", f" {TOKEN}"]
)
def test_malformed_tokens_are_refused(token: str) -> None:
    with pytest.raises(TokenError):
        SIGNER.open("cursor", token, now=1000)


def test_another_purpose_or_secret_does_not_open_it() -> None:
    for signer, purpose in ((SIGNER, "session"), (Signer(b"t" * 32), "cursor")):
        with pytest.raises(TokenError, match="not ours"):
            signer.open(purpose, TOKEN, now=1000)


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("ABCDxyz019-_."))
def test_no_changed_character_passes(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    if changed != TOKEN:
        with pytest.raises(TokenError):
            SIGNER.open("cursor", changed, now=1000)


def test_a_signed_path_opens_that_path_of_that_tenant_in_time() -> None:
    path = "/v1/jobs/job_1/evidence/1.jpg"
    query = dict(part.split("=") for part in SIGNER.sign_path(path, tenant="a", now=1000).split("?")[1].split("&"))
    good = {"path": path, "tenant": "a", "expires": query["expires"], "signature": query["signature"], "now": 1200.0}
    SIGNER.check_path(**good)  # type: ignore[arg-type]
    wrong = [
        {"path": "/v1/jobs/job_2/evidence/1.jpg"}, {"tenant": "b"}, {"expires": "9999999999"}, {"expires": "1e99"},
        {"expires": "١٢٣"}, {"signature": ""}, {"signature": "ä"}, {"now": 1301.0},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(TokenError):
            SIGNER.check_path(**(good | change))  # type: ignore[arg-type]


def test_the_secret_is_made_once_for_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "state" / "secret"
    with ThreadPoolExecutor(8) as threads:
        found = set(threads.map(lambda _: load_secret(path), range(32)))
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize(("content", "mode"), [("zz", 0o600), ("00" * 8, 0o600), ("", 0o600), ("00" * 32, 0o644)])
def test_a_poor_secret_is_refused(content: str, mode: int, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(InvalidConfig):
        load_secret(path)


def test_a_short_secret_makes_no_signer_and_none_is_printed() -> None:
    with pytest.raises(InvalidConfig):
        Signer(b"short")
    assert "s" * 8 not in repr(SIGNER)
