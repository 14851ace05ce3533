"""Ways of asking a frozen model that hears for its reply: fixed steps, free thought, none (LPE, arXiv 2501.10937).

Each held-out exchange is spoken and heard once; the ways differ in what is asked after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from omni.assistant import Assistant
from omni.backbones.lpe import PROMPTS, LpeResponder
from omni.data.corpora.exchanges import Exchange
from omni.data.voices import HELD_OUT_VOICES, speak
from omni.errors import UsageError
from omni.evaluation.matching import CHOICES, Matcher, choices_for, self_dialogue_documents
from omni.evaluation.metrics import distinct, ratio_interval
from omni.evaluation.replying import LONGEST_WORDS, before
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.phones import normalise
from omni.turns import FITTING_STYLES, Audio, Reply


@dataclass(frozen=True)
class _Asked:
    """An exchange and the reply that each way of asking has brought."""

    exchange: Exchange
    replies: dict[str, Reply]


def run(assistant: Assistant, settings: Settings) -> Result:
    """A row for each way of asking. UsageError for an assistant that cannot be asked in several ways."""
    responder = assistant.parts.responder
    if not isinstance(responder, LpeResponder):
        raise UsageError(
            "prompting compares ways of asking an LPE preset; give one: omni eval prompting --preset lpe-7b"
        )
    held = settings.exchanges()[1]
    matcher = Matcher().fit(self_dialogue_documents(settings.folder("text") / "self_dialogue.jsonl.gz"))
    asked = _ask(assistant, responder, settings)
    choices = choices_for([a.exchange for a in asked], held, settings.seed)
    result = Result(counts={"exchanges": len(asked)})
    rows = []
    for way in PROMPTS:
        texts = [a.replies[way].text for a in asked]
        hits = matcher.finds(texts, choices)
        found = float(np.mean(hits))
        span = ratio_interval(np.stack([np.array(hits, float), np.ones(len(hits))], axis=1))
        fits = float(np.mean([a.replies[way].plan.style in FITTING_STYLES[a.exchange.emotion] for a in asked]))
        lengths = [len(normalise(text).split()) for text in texts]
        rows.append(
            (
                way, PROMPTS[way], percent(found), between(span), percent(fits), f"{distinct(texts, 2):.3f}",
                f"{np.mean(lengths):.1f}", percent(float(np.mean([n < LONGEST_WORDS for n in lengths]))),
            )
        )  # fmt: skip
        result.numbers[way] = {"found": found, "style_fits": fits, "distinct_2": distinct(texts, 2)}
        result.rows.append(
            Row(f"asked for {way}: right query of {CHOICES} found from the reply (LSA)", percent(found), between(span))
        )
    columns = ("way", "what is asked", "found", "95 %", "style fits the written emotion", "distinct-2", "words",
               f"under {LONGEST_WORDS}")  # fmt: skip
    result.tables.append(
        Table("Ways of asking", columns, rows, "The same sound, words and perception for all of them.")
    )
    result.numbers["replies"] = [
        {"said": a.exchange.say, **{way: reply.text for way, reply in a.replies.items()}} for a in asked
    ]
    return result


def _ask(assistant: Assistant, responder: LpeResponder, settings: Settings) -> list[_Asked]:
    held = settings.exchanges()[1]
    chosen, usual, found = settings.sample(list(zip(held, before(held), strict=True))), responder.steps, list[_Asked]()
    try:
        for place, (exchange, past) in enumerate(tqdm(chosen, desc="prompting", unit="exchange")):
            sound = speak(exchange.say, HELD_OUT_VOICES[place % len(HELD_OUT_VOICES)])
            heard, perception = assistant.hear(Audio(sound))
            replies = {}
            for responder.steps in PROMPTS:
                replies[responder.steps] = assistant.respond(heard, perception, past, settings.seed + place)
            found.append(_Asked(exchange, replies))
    finally:
        responder.steps = usual
    return found
