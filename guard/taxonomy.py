"""Harm categories, their stable ids, and what other systems call them.

Ids are dotted paths: `violence.fighting` is a child of `violence`. An id is never renamed or given another meaning; new ones are
added. The six roots without a pack follow SafeWatch (arXiv 2412.06878, table of categories); the others are packs that a policy must
ask for. The mappings name the closest key of each scheme, for export, not for scoring.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

OPENAI_KEYS: tuple[str, ...] = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
"""The 13 keys of the OpenAI moderation endpoint, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One harm category."""

    id: str
    name: str
    openai: str | None = None
    aws: str | None = None
    dsa: str | None = None
    """Category of a DSA statement of reasons."""
    llama_guard: str | None = None
    """S-code of Llama Guard 3 and 4."""
    pack: str | None = None
    """Safety pack that switches it on; None for the six default roots."""

    @property
    def parent(self) -> str | None:
        """The id one level up, or None for a root."""
        return self.id.rpartition(".")[0] or None


_TABLE = """
id | name | openai | aws | dsa | llama_guard | pack
sexual | Sexual content | sexual | Explicit | STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE | S12 |
sexual.explicit | Explicit sexual activity | sexual | Explicit Sexual Activity | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | S12 |
sexual.implied | Implied or suggestive sexual content | sexual | Non-Explicit Nudity | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | S12 |
sexual.subtle | Subtle sexual content | sexual | Non-Explicit Nudity | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | S12 |
sexual.hentai | Animated sexual content | sexual | Explicit | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | S12 |
sexual.minors | Sexualisation of minors | sexual/minors | Explicit | STATEMENT_CATEGORY_PROTECTION_OF_MINORS | S4 |
harassment | Harassment and bullying | harassment | Hate Symbols | STATEMENT_CATEGORY_CYBER_VIOLENCE | S10 |
harassment.abuse | Abuse of a person | harassment | Violence | STATEMENT_CATEGORY_CYBER_VIOLENCE | S10 |
harassment.sexual | Sexual bullying | harassment | Violence | STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN | S3 |
harassment.child | Child abuse | harassment/threatening | Violence | STATEMENT_CATEGORY_PROTECTION_OF_MINORS | S4 |
harassment.animal | Animal abuse | violence | Violence | STATEMENT_CATEGORY_ANIMAL_WELFARE | S1 |
harassment.campus | Bullying at school | harassment | Violence | STATEMENT_CATEGORY_PROTECTION_OF_MINORS | S10 |
harassment.threat | Threats against a person | harassment/threatening | Violence | STATEMENT_CATEGORY_CYBER_VIOLENCE | S1 |
violence | Threats, violence and harm | violence | Violence | STATEMENT_CATEGORY_VIOLENCE | S1 |
violence.assault | Assault | violence | Physical Violence | STATEMENT_CATEGORY_VIOLENCE | S1 |
violence.fighting | Fighting | violence | Physical Violence | STATEMENT_CATEGORY_VIOLENCE | S1 |
violence.shooting | Shooting | violence | Weapon Violence | STATEMENT_CATEGORY_VIOLENCE | S1 |
violence.sexual | Sexual violence | violence | Violence | STATEMENT_CATEGORY_VIOLENCE | S3 |
violence.vandalism | Vandalism | illicit/violent | Violence | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
violence.riot | Riot | violence | Violence | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S1 |
violence.weapon | Weapon shown | violence | Weapons | STATEMENT_CATEGORY_VIOLENCE | S9 |
violence.graphic | Gore and graphic injury | violence/graphic | Blood & Gore | STATEMENT_CATEGORY_VIOLENCE | S1 |
deception | False and deceptive information | | | STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS | S13 |
deception.acting | Staged scene shown as real | | | STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS | S13 |
deception.synthetic | Generated content shown as real | | | STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS | S13 |
deception.misinformation | Misinformation | | | STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS | S13 |
deception.outdated | Old footage shown as new | | | STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS | S13 |
illegal | Illegal and regulated activities | illicit | Drugs & Tobacco | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.fire | Fire and arson | illicit/violent | Explosions And Blasts | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.fire.smoke | Smoke of a fire | illicit/violent | Explosions And Blasts | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.explosion | Explosion | illicit/violent | Explosions And Blasts | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.drugs | Drugs | illicit | Drugs & Tobacco | STATEMENT_CATEGORY_UNSAFE_AND_ILLEGAL_PRODUCTS | S2 |
illegal.cult | Heretical or coercive campaigns | illicit | | STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH | S2 |
illegal.robbery | Robbery and burglary | illicit/violent | Violence | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.theft | Shoplifting and theft | illicit | | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S2 |
illegal.war | War and military action | illicit/violent | Violence | STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY | S1 |
extremism | Hateful content and extremism | hate | Hate Symbols | STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH | S10 |
extremism.hate | Hate against a protected group | hate | Hate Symbols | STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH | S10 |
extremism.disturbing | Extremely disturbing content | violence/graphic | Visually Disturbing | STATEMENT_CATEGORY_VIOLENCE | S1 |
extremism.depression | Incitement to depression | self-harm | Self-Harm | STATEMENT_CATEGORY_SELF_HARM | S11 |
extremism.incitement | Incitement to violence | hate/threatening | Extremist | STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH | S1 |
extremism.self_harm | Suicide and self-harm | self-harm | Self-Harm | STATEMENT_CATEGORY_SELF_HARM | S11 |
accidents | Accidents | | Visually Disturbing | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | accidents
accidents.road | Road accident | | Visually Disturbing | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | accidents
accidents.fall | Person falling | | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | accidents
flashing | Flashing that can trigger seizures | | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | flashing
flashing.general | General flashes | | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | flashing
flashing.red | Saturated red flashes | | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | flashing
spam | Spam and scams | | | STATEMENT_CATEGORY_SCAMS_AND_FRAUD | S2 | spam
profanity | Profanity | harassment | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | profanity
toxicity | Toxic language | harassment | | STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH | S10 | toxicity
negativity | Negativity | | | STATEMENT_CATEGORY_OTHER_VIOLATION_TC | | negativity
"""

CUSTOM_ROOT = "custom"
"""Categories that a policy invents live under this root, such as `custom.parkour`."""

_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


@cache
def categories() -> Mapping[str, Category]:
    """Return every built-in category by id, parents before children."""
    _, *rows = (tuple(cell.strip() or None for cell in line.split("|")) for line in _TABLE.strip().splitlines())
    table: dict[str, Category] = {}
    for identifier, name, openai, aws, dsa, llama_guard, pack in rows:
        assert identifier is not None and name is not None  # a row of our own table, not user input
        table[identifier] = Category(
            id=identifier, name=name, openai=openai, aws=aws, dsa=dsa, llama_guard=llama_guard, pack=pack
        )
    return MappingProxyType(table)


def is_known(identifier: str) -> bool:
    """Whether `identifier` is built in, or well-formed below `custom`."""
    return identifier in categories() or (
        identifier.startswith(f"{CUSTOM_ROOT}.") and _ID.fullmatch(identifier) is not None
    )


def suggestion(identifier: str) -> str | None:
    """Return the built-in id closest to `identifier`, or None where none is close."""
    close = difflib.get_close_matches(identifier, categories(), n=1, cutoff=0.6)
    return close[0] if close else None


def covers(general: str, specific: str) -> bool:
    """Whether a rule on `general` speaks of `specific`: the same id, or one of its descendants."""
    return specific == general or specific.startswith(f"{general}.")
