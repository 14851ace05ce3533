"""Replies to exchanges that were never trained on, spoken by two voices that no part has heard.

Measured: can the query be told from the reply alone (LSA matcher); what is copied; how varied and how long replies are.
Three conditions tell where a miss comes from: words and tone as heard; words given; words and tone given.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from omni.assistant import Assistant
from omni.data.corpora.exchanges import Exchange, dialogues
from omni.data.voices import HELD_OUT_VOICES, Voice
from omni.data.voices import speak as read_aloud
from omni.evaluation.crew import each
from omni.evaluation.matching import CHOICES, Matcher, choices_for, self_dialogue_documents
from omni.evaluation.metrics import distinct, error_counts, ratio, ratio_interval, share_with_known_run
from omni.evaluation.report import commit, weights_digest
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.files import atomic_write
from omni.phones import normalise
from omni.turns import (
    INTENSITIES,
    Audio,
    Conversation,
    Heard,
    Perception,
    Plan,
    Reply,
    Style,
    Turn,
)

#: The controls are made for at most this many exchanges, evenly spaced.
CONTROLS = 600
FLOOR, AIM, COPIED_FLOOR, LONGEST_WORDS, SHOWN = 0.40, 0.70, 0.05, 35, 10


@dataclass(frozen=True)
class Spoken:
    """A held-out exchange as the assistant met it, with the reply's sound, int16 [N] at 16 kHz.

    `given` had its words, `told` its words and its emotion: two controls, made for some of the exchanges only.
    """

    exchange: Exchange
    voice: str
    heard: Heard
    perception: Perception
    reply: Reply
    sound: np.ndarray
    given: Reply | None
    told: Reply | None


def perception_of(exchange: Exchange) -> Perception:
    """The perception that a perfect perceiver would have of a written exchange."""
    intensity = (INTENSITIES.index(exchange.intensity) + 0.5) / len(INTENSITIES)
    return Perception.certain(exchange.emotion, intensity, exchange.match)


def before(exchanges: Sequence[Exchange]) -> list[Conversation]:
    """For each exchange the written turns of its dialogue before it; empty for those that stand alone."""
    found = []
    for group in dialogues(list(exchanges)):
        conversation = Conversation()
        for exchange in group:
            found.append(conversation)
            reply = Reply(exchange.reply, exchange.plan, Style(exchange.style))
            conversation = conversation.with_turn(Turn(Heard(exchange.say), perception_of(exchange), reply))
    return found


@dataclass(frozen=True)
class _Job:
    """One exchange to be heard and answered; `controlled`: with the words and the tone given, too."""

    exchange: Exchange
    past: Conversation
    voice: Voice
    seed: int
    controlled: bool
    kept: Path | None = None


def _meet(assistant: Assistant, job: _Job) -> Spoken:
    if job.kept is not None and job.kept.is_file():
        return _load(job.kept, job.exchange)
    made = _answer(assistant, job)
    if job.kept is not None:
        _save(made, job.kept)
    return made


def _answer(assistant: Assistant, job: _Job) -> Spoken:
    query = read_aloud(job.exchange.say, job.voice)
    true = Heard(normalise(job.exchange.say))
    turn, given, told = assistant.reply(Audio(query), job.past, job.seed), None, None
    if job.controlled:
        given = assistant.respond(true, turn.perception, job.past, job.seed)
        told = assistant.respond(true, perception_of(job.exchange), job.past, job.seed)
    sound = np.zeros(0) if turn.reply.audio is None else turn.reply.audio.samples
    sound = (np.clip(sound, -1, 1) * 32767).astype(np.int16)
    reply = replace(turn.reply, audio=None)
    return Spoken(job.exchange, job.voice.name, turn.heard, turn.perception, reply, sound, given, told)


def _save(spoken: Spoken, path: Path) -> None:
    perception = asdict(replace(spoken.perception, vector=None))
    plain = {"voice": spoken.voice, "heard": asdict(replace(spoken.heard, sound=None)), "perception": perception}
    for name in ("reply", "given", "told"):
        found = getattr(spoken, name)
        plain[name] = found and {"text": found.text, "plan": asdict(found.plan), "style": asdict(found.style)}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, sound=spoken.sound, rest=np.array(json.dumps(plain)))


def _load(path: Path, exchange: Exchange) -> Spoken:
    with np.load(path, allow_pickle=False) as kept:
        sound, plain = kept["sound"], json.loads(str(kept["rest"]))

    def reply(values: dict[str, Any] | None) -> Reply | None:
        return values and Reply(values["text"], Plan(**values["plan"]), Style(**values["style"]))  # type: ignore[return-value]

    plain["heard"]["alternatives"] = tuple(plain["heard"]["alternatives"])
    heard, perception, first = Heard(**plain["heard"]), Perception(**plain["perception"]), reply(plain["reply"])
    assert first is not None
    return Spoken(
        exchange, plain["voice"], heard, perception, first, sound, reply(plain["given"]), reply(plain["told"])
    )


def replies(assistant: Assistant, settings: Settings) -> list[Spoken]:
    """Every held-out exchange spoken (the two voices in turn), heard and answered; made once a run."""
    if "replies" in settings.shared:
        return settings.shared["replies"]
    held = settings.exchanges()[1]
    chosen = settings.sample(list(zip(held, before(held))))
    voices = [HELD_OUT_VOICES[i % len(HELD_OUT_VOICES)] for i in range(len(chosen))]
    every = max(1, -(-len(chosen) // CONTROLS))
    keep = None
    if settings.keep is not None:
        keep = settings.keep / f"{commit()}-{weights_digest(settings.where)}-{settings.seed}-{settings.limit or 'all'}"
        keep.mkdir(parents=True, exist_ok=True)
    jobs = [
        _Job(exchange, past, voice, settings.seed + place, place % every == 0, keep and keep / f"{place:05d}.npz")
        for place, ((exchange, past), voice) in enumerate(zip(chosen, voices, strict=True))
    ]
    found = each(assistant, _meet, jobs, settings, "replying")
    settings.shared["replies"] = found
    return found


def run(assistant: Assistant, settings: Settings) -> Result:
    """The replying rows of the results; the replies themselves go to `numbers["replies"]`."""
    training, held = settings.exchanges()
    path = settings.folder("text") / "self_dialogue.jsonl.gz"
    matcher = Matcher().fit(self_dialogue_documents(path))
    spoken = replies(assistant, settings)
    choices = choices_for([s.exchange for s in spoken], held, settings.seed)
    result = Result(counts={"exchanges": len(spoken)})
    _matching(result, matcher, spoken, choices)
    _words(result, [s.reply.text for s in spoken if s.heard.understood], [e.reply for e in training])
    _hearing(result, spoken)
    controlled = [s for s in spoken if s.told is not None]
    shown = random.Random(settings.seed).sample(range(len(controlled)), min(SHOWN, len(controlled)))
    result.tables.append(_shown([controlled[i] for i in shown]))
    result.numbers["replies"] = [_plain(s) for s in spoken]
    return result


def _interval(hits: Sequence[bool]) -> tuple[float, float]:
    return ratio_interval(np.stack([np.array(hits, float), np.ones(len(hits))], axis=1))


def _matching(result: Result, matcher: Matcher, spoken: Sequence[Spoken], choices: list[list[str]]) -> None:
    """Is the right query found among ten from the reply alone?"""
    conditions: dict[str, Callable[[Spoken], str | None]] = {
        "as heard": lambda s: s.reply.text,
        "words given": lambda s: s.given.text if s.given else None,
        "words and tone given": lambda s: s.told.text if s.told else None,
        "written replies": lambda s: s.exchange.reply,
    }
    shares, latent, counts = {}, {}, {}
    for name, text_of in conditions.items():
        replied = [(text, c) for text, c in zip(map(text_of, spoken), choices, strict=True) if text is not None]
        texts, theirs = [text for text, _ in replied], [c for _, c in replied]
        hits = matcher.finds(texts, theirs)
        shares[name], counts[name] = (float(np.mean(hits)), _interval(hits)), len(hits)
        latent[name] = float(np.mean(matcher.finds(texts, theirs, None)))
    value, interval = shares["as heard"]
    beside = "; ".join(f"{n} {percent(shares[n][0])}" for n in list(shares)[1:])
    result.rows.append(
        Row(
            f"held-out exchanges spoken by two unheard voices: right query of {CHOICES} found from the reply (LSA)",
            f"{percent(value)} (95 %: {between(interval)})",
            f"{beside}; chance {percent(1 / CHOICES, 0)}",
            percent(FLOOR, 0),
            percent(AIM, 0),
            value >= FLOOR,
            value >= AIM,
        )
    )
    rows = [
        (n, str(counts[n]), percent(share), between(span), percent(latent[n])) for n, (share, span) in shares.items()
    ]
    for voice in dict.fromkeys(s.voice for s in spoken):
        places = [i for i, s in enumerate(spoken) if s.voice == voice]
        pairs = [spoken[i].reply.text for i in places], [choices[i] for i in places]
        hits, deep = matcher.finds(*pairs), matcher.finds(*pairs, None)
        name = f"as heard, spoken by festival {voice}"
        rows.append(
            (
                name,
                str(len(hits)),
                percent(float(np.mean(hits))),
                between(_interval(hits)),
                percent(float(np.mean(deep))),
            )
        )
    note = "The matcher compares TF-IDF words and, a little, their LSA projections; last column: projections alone."
    result.tables.append(
        Table("Right query found among ten", ("reply", "exchanges", "share", "95 %", "projections alone"), rows, note)
    )
    result.numbers |= {f"found_{n.replace(' ', '_')}": share for n, (share, _) in shares.items()}
    result.numbers |= {f"found_by_projections_{n.replace(' ', '_')}": share for n, share in latent.items()}


def _words(result: Result, texts: Sequence[str], known: Sequence[str]) -> None:
    """Copying, variety and length of the replies to understood queries (the fixed request to repeat is left out)."""
    lengths = np.array([len(normalise(t).split()) for t in texts] or [0])
    copied, varied = share_with_known_run(texts, known), distinct(texts, 2)
    written = distinct(known[: len(texts)], 2)
    short = float((lengths < LONGEST_WORDS).mean())
    result.rows += [
        Row(
            "replies sharing eight consecutive words with a training reply",
            percent(copied), "", "under 5 %", "", copied < COPIED_FLOOR,
        ),
        Row(
            "variety of the replies: distinct-2 (and distinct-1)",
            f"{varied:.3f} ({distinct(texts, 1):.3f})",
            f"as many of the corpus's own replies {written:.3f}; {len(set(texts))} of {len(texts)} replies differ",
        ),
        Row(
            f"replies under {LONGEST_WORDS} words",
            percent(short), f"mean {lengths.mean():.1f} words, longest {lengths.max()}", "all", "", short == 1.0,
        ),
    ]  # fmt: skip
    result.numbers |= {"copied": copied, "distinct_2": varied, "distinct_1": distinct(texts, 1), "short": short}
    result.numbers["mean_words"] = float(lengths.mean())


def _hearing(result: Result, spoken: Sequence[Spoken]) -> None:
    counts = error_counts([s.exchange.say for s in spoken], [s.heard.text for s in spoken])
    unsure = float(np.mean([not s.heard.understood for s in spoken]))
    result.notes.append(
        f"Word error rate on these queries {percent(ratio(counts))}; {percent(unsure)} were not understood and got a "
        "request to repeat, which counts as not found. Rows of a dialogue are heard after its written turns."
    )
    result.numbers |= {"wer_queries": ratio(counts), "not_understood": unsure}


def _shown(spoken: Sequence[Spoken]) -> Table:
    rows = []
    for s in spoken:
        plan, seen = s.reply.plan, s.perception
        rows.append(
            (
                s.exchange.say,
                s.heard.text,
                f"{seen.emotion} ({seen.confidence:.0%}), written as {s.exchange.emotion}",
                f"{plan.need}, {plan.strategy}, {plan.intent}, {plan.style}",
                s.reply.text,
                s.told.text if s.told else "",
            )
        )
    columns = ("said", "heard", "perceived", "plan", "reply", "reply with words and tone given")
    return Table("Ten replies drawn by the seed, in full", columns, rows)


def _plain(s: Spoken) -> dict[str, Any]:
    return {
        "situation": s.exchange.situation,
        "voice": s.voice,
        "said": s.exchange.say,
        "heard": s.heard.text,
        "perceived": s.perception.emotion,
        "voiced_as": asdict(s.reply.style),
        "reply": s.reply.text,
        "reply_words_given": s.given.text if s.given else None,
        "reply_words_and_tone_given": s.told.text if s.told else None,
    }
