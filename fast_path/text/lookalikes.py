"""Characters that pass for Latin letters: other scripts' letters, and the digits and signs of leet writing.

NFKC already folds full-width, mathematical, circled and ligature forms; these are the ones that Unicode keeps apart.
"""

from __future__ import annotations

_PAIRS = (
    # Cyrillic, after case folding
    "аa вb еe кk мm нh оo рp сc тt уy хx іi їi јj ѕs ԁd ԛq ԝw һh ьb зz пn иu гr ӏl "
    # Greek, after case folding and stripping of accents
    "αa βb γy δd εe ζz ηn ιi κk λl μu νv οo ρp σs ςs τt υu χx ωw "
    # Latin letters without a decomposition, small capitals, IPA
    "ıi ɑa ɐa ʙb ᴀa ᴄc ᴅd ᴇe ɛe əe ɡg ɢg ʜh ɪi ᴊj ᴋk ʟl ᴍm ɴn ᴏo ᴘp ʀr ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz øo đd ħh łl ŧt ƒf ſs ʼ' "
    # Armenian and Cherokee letters in common use as stand-ins
    "օo ոn սu հh ցg ѵv ꭰd ꭱr ꭲt ꮪs ꮃw ꮇm ꮋh ꮐg ꮓz ꮖi ꮞ4 ꮤw ꮩv ꮯc ꮲp"
)

LOOKALIKES: dict[int, str] = {ord(pair[0]): pair[1] for pair in _PAIRS.split()}
"""Code point to the ASCII letter it passes for."""

TWINS = frozenset("аеорсухіјѕԁһοορνικ")
"""Those that look the same in most fonts: a word of nothing else is read as Latin. `сосо` is, `рост` is not."""

LEET: dict[int, str] = {ord(sign): letter for sign, letter in zip("0134579@$!|€£+", "oieastgasilelt", strict=True)}
"""Code point of a digit or sign to the letter that it stands for inside a word."""
