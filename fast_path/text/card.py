"""The model card that goes with the weights."""

from __future__ import annotations

from collections.abc import Mapping

SOURCES: Mapping[str, tuple[str, str]] = {
    "catqa": ("CatQA, questions that chat models should refuse", "not stated where read"),
    "context_toxicity": ("Pavlopoulos et al. 2020, talk-page comments", "not stated where read"),
    "convabuse": ("ConvAbuse, Cercas Curry et al. 2021, abuse of chat bots", "not stated where read"),
    "davidson": ("Davidson et al. 2017, tweets", "MIT"),
    "ethos": ("ETHOS, Mollas et al. 2020, comments", "not stated where read"),
    "lewidi_hs-brexit": ("HS-Brexit, Akhtar et al. 2021, tweets", "not stated where read"),
    "lewidi_md-agreement": ("MD-Agreement, Leonardelli et al. 2021, tweets", "not stated where read"),
    "olid": ("OLID, Zampieri et al. 2019, tweets", "not stated where read"),
    "openai_moderation": (
        "Markov et al. 2022, moderation set, sexual rows removed",
        "not stated where read",
    ),
    "paradetox": ("ParaDetox, Logacheva et al. 2022, comments and neutral rewrites", "not stated where read"),
    "popquorn_offensiveness": ("POPQUORN, Pei and Jurgens 2023, comments", "not stated where read"),
    "safety_tuned_llamas": ("Bianchi et al. 2023, prompts", "not stated where read"),
    "sst2": ("SST-2, Socher et al. 2013, film reviews", "not stated where read"),
    "uci_sms_spam": ("SMS Spam Collection, Almeida et al. 2011", "not stated where read"),
}
"""Source to what it is and the licence its repository states, as far as it was read for this card."""


def render_card(labels: Mapping[str, Mapping[str, int]], rows: Mapping[str, int]) -> str:
    """Return the card as Markdown; `labels` counts positives and negatives by category, `rows` the rows by source."""
    label_lines = "\n".join(f"| `{name}` | {c['positive']} | {c['negative']} |" for name, c in labels.items())
    stated = {name: SOURCES.get(name, (name, "not stated where read")) for name in rows}
    source_lines = "\n".join(f"| {what} | {licence} | {rows[name]} |" for name, (what, licence) in stated.items())
    return _TEMPLATE.format(labels=label_lines, sources=source_lines)


_TEMPLATE = """# Text classifier `text_ngrams`

One linear layer over hashed character and word n-grams, 8-bit weights, one calibrated probability for each category.
No pretrained part. It screens titles, captions, comments, and words seen or heard in a video.

## What it was trained on

| category | positive | negative |
|---|---|---|
{labels}

| source | licence | rows |
|---|---|---|
{sources}

Only rows of the train split. Near copies are never parted between training and measuring. HateCheck, Multilingual
HateCheck, XSTest and SimpleSafetyTests are for measuring only.

## What it does not know

- `sexual` is not covered: no source here labels it. A policy rule on it is routed on, never cleared.
- English only. A text in unknown words or another script counts as not read.
- Word lists and short phrases decide. It does not follow negation, quotation, irony or who speaks: see the HateCheck
  table in `docs/text.md`. It shares the bias of its sources against dialect and against naming a group at all.
- Probabilities are calibrated for the mix of the sources, which is far richer in harm than most feeds. Calibrate on
  your own texts before you trust a threshold.
- `violence` and `extremism.self_harm` stand on fewer than a hundred positive texts each.

## What the weights give away

No text and no vocabulary is stored: n-grams are hashed, and a bucket or word is kept only where at least three
unrelated texts share it. Someone may still test whether a given word was common in the sources.
"""
