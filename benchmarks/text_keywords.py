"""A keyword list for each category: the peer that any classifier must beat. It holds the words that moderators list.

Matched against the normalised text (so it gets the same help against disguises), at the start of a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fast_path.text.normalise import normalise

_PROFANE = (
    "fuck fuk fck shit bullshit bitch asshole arsehole bastard cunt dick piss whore slut hoe cock pussy damn crap "
    "motherfuck wtf stfu twat wank prick douche"
)
_INSULT = "idiot moron stupid retard dumb loser scum trash pathetic ugly fool clown jerk imbecile"
_SLUR = "nigg faggot fag dyke tranny kike spic chink gook paki raghead wetback cracker coon honkey mongoloid"
_LISTS = {
    "toxicity": f"{_PROFANE} {_INSULT} {_SLUR}",
    "extremism.hate": f"{_SLUR} subhuman vermin exterminat deport_them go_back_to_your_country",
    "harassment": f"{_INSULT} bitch kill_yourself shut_up fuck_you whore slut",
    "violence": "kill murder shoot stab bomb slaughter behead massacre torture rape attack",
    "extremism.self_harm": "suicid kill_myself self_harm cut_myself cutting_myself anorexi end_my_life starve_myself "
    "overdose hang_myself",
    "spam": "free win winner won prize claim cash urgent txt text reply stop ringtone awarded guaranteed offer",
    "negativity": "bad dull boring worst terrible awful mess lame stupid fails lacks bland tedious poor waste",
}
KEYWORDS: Mapping[str, tuple[str, ...]] = {
    category: tuple(entry.replace("_", " ") for entry in words.split()) for category, words in _LISTS.items()
}


def keyword_hits(texts: Sequence[str], category: str) -> NDArray[np.float64]:
    """Return the number of different listed words in each text: float64 [N]; 1 and more is flagged."""
    pattern = re.compile(r"\b(" + "|".join(re.escape(word) for word in KEYWORDS[category]) + ")")
    return np.array([len(set(pattern.findall(normalise(text).words))) for text in texts], dtype=np.float64)
