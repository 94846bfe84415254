"""Bring text to one plain form, so that a disguise does not change what is scored.

Two views come out. The *plain* view has lower-case words of letters only, with disguises undone: compatibility forms,
accents, invisible characters, letters of other scripts, leet digits, spaced-out and stretched words. The *surface*
view keeps what the plain one drops on purpose: amounts, phone numbers, links, mentions, exclamation marks.

Any `str` is accepted, lone surrogates included. The work is bounded by `MAX_CHARACTERS`.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

from fast_path.text.lookalikes import LEET, LOOKALIKES, TWINS

MAX_CHARACTERS = 50_000
"""Code points read of one text: about 8,000 words. The rest is reported as unread, never as clean."""

_URL = re.compile(r"(?:https?://|www\.)\S+|<url>|\burl\b|\{url\}|\b[\w-]{1,63}\.(?:com|net|org|co\.uk)\b(?:/\S*)?")
_MENTION = re.compile(r"<user>|(?<!\w)@\w+")
_RETWEET = re.compile(r"(?:^|(?<=\s))rt(?=\s+(?:@|<user>))")
_TREEBANK = re.compile(r"\s+(?=n't\b|'(?:s|re|ve|ll|d|m)\b)|-[lr][rsc]b-")
_SPACED = re.compile(r"(?<![^\W_])[^\W\d_]([ .*_\-])[^\W\d_](?:\1[^\W\d_])+(?![^\W_])")
_STRETCHED_VOWEL = re.compile(r"([aeiou])\1{2,}")
_STRETCHED = re.compile(r"([^\W\d_])\1{2,}")
_NOT_LETTER = re.compile(r"[^\w*]|[\d_]")
_SPACES = re.compile(r"\s+")
_NUMBER = re.compile(r"[£$€]?\d[\d.,:/-]*\d|[£$€]?\d")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\s]")
_WIDE_GAP = re.compile(r" {3,}")
_HUGE_REFERENCE = re.compile(r"&#\d{8,};?")  # no code point is that large, and `int` refuses 4,300 digits and more
_QUOTES = {0x2018: "'", 0x2019: "'", 0x02BC: "'", 0x60: "'"}
_DROPPED = frozenset({"Mn", "Me", "Cf", "Cs", "Co"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """One normalised text."""

    words: str
    """Lower-case words of letters (and `*`), one space between and none around; may be empty."""
    surface: tuple[str, ...]
    """Marks of the surface, such as `num4`, `money`, `link`, `mention`, `shout`."""
    disguised: int
    """Words that read differently before disguises were undone."""
    symbols: int
    """Emoji and other pictures among the characters: they mean something, and are not part of either view."""
    unread: int
    """Code points past `MAX_CHARACTERS`, which nobody looked at."""


def normalise(text: str) -> Plain:
    """Return the plain form of `text`. Pure, and total over every `str`."""
    unread = max(0, len(text) - MAX_CHARACTERS)
    folded, lost = _fold(text[:MAX_CHARACTERS])
    folded = _TREEBANK.sub("", folded)
    marked = _MENTION.sub(" ", _RETWEET.sub(" ", folded))
    body = _URL.sub(" ", marked)
    surface = _surface(folded, body, mentioned=len(_MENTION.findall(folded)))
    disguised, symbols = 0, _symbols(text[:MAX_CHARACTERS])
    tokens: list[str] = []
    for token in _join_spaced(body).split():
        undone = _undisguise(token)
        disguised += undone != token and token.isalnum() and not token.isascii()
        tokens.append(undone)
    words = _SPACES.sub(" ", _NOT_LETTER.sub(" ", " ".join(tokens).replace("'", ""))).strip()
    words = " ".join(word for word in _squeeze(words).split() if word.strip("*"))
    return Plain(words=words, surface=surface, disguised=disguised, symbols=symbols, unread=unread + lost)


def _fold(text: str) -> tuple[str, int]:
    """Undo case, compatibility forms, accents and invisible characters; return also how much was cut.

    A zero-width character inside a word vanishes, so `fu<U+200B>ck` is one word.
    """
    cut = 0
    plain = html.unescape(_HUGE_REFERENCE.sub(" ", text)) if "&" in text else text
    if not plain.isascii():
        # Marks go first: sorting a long run of them is quadratic, and one ligature may unfold to 18 letters.
        unfolded = unicodedata.normalize("NFKD", _strip(plain))
        cut = max(0, len(unfolded) - 2 * MAX_CHARACTERS)
        plain = _strip(unfolded[: 2 * MAX_CHARACTERS]).translate(_QUOTES)
    return _WIDE_GAP.sub("  ", _CONTROL.sub(" ", plain.casefold())), cut


def _strip(text: str) -> str:
    return "".join(c for c in text if c.isascii() or c.isspace() or unicodedata.category(c) not in _DROPPED)


def _symbols(text: str) -> int:
    return 0 if text.isascii() else sum(ord(c) > 0x2000 and unicodedata.category(c) == "So" for c in text)


def _join_spaced(text: str) -> str:
    """Join words written letter by letter: `f u c k`, `f.u.c.k`; `a b` stays, and a wider gap parts words."""
    return _SPACED.sub(lambda found: found.group().replace(found.group(1), ""), text)


def _undisguise(token: str) -> str:
    """Return the token in Latin letters, where it only makes sense as such."""
    if not token.isascii():
        mixed = any(c.isascii() and c.isalpha() for c in token) or all(c in TWINS for c in token if c.isalpha())
        swapped = token.translate(LOOKALIKES) if mixed else token
        token = swapped if all(c.isascii() for c in swapped if c.isalpha()) else token
    letters = sum(c.isalpha() for c in token)
    signs = sum(ord(c) in LEET for c in token.rstrip("!+"))
    if letters < 2 or not signs or letters < signs:
        return token
    core = token.rstrip("!+")  # `idiot!!` ends in exclamation marks, `sh!t` holds a letter
    return core.translate(LEET) + token[len(core) :]


def _squeeze(words: str) -> str:
    """`fuuuuck` becomes `fuck`, `hellllo` becomes `hello`: three or more vowels are one, consonants two."""
    return _STRETCHED.sub(r"\1\1", _STRETCHED_VOWEL.sub(r"\1", words))


def _surface(folded: str, body: str, *, mentioned: int) -> tuple[str, ...]:
    found: list[str] = []
    numbers = _NUMBER.findall(body)
    for number in numbers:
        digits = sum(c.isdigit() for c in number)
        found.append(f"num{min(digits, 12)}")
        if number[0] in "£$€":
            found.append("money")
    links = len(_URL.findall(folded))
    found += ["link"] * (links > 0) + ["links"] * (links > 1) + ["mention"] * (mentioned > 0)
    found += ["shout"] * ("!" in body) + ["asks"] * ("?" in body)
    found.append(f"numbers{min(len(numbers), 4)}")
    return tuple(dict.fromkeys(found))
