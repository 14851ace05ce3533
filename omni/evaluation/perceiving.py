"""Tone of voice: recall of emotions for speakers never heard, calibration, a words-only control, and the style it leads to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from omni.assistant import Assistant
from omni.audio.io import read_audio
from omni.data.corpora import indian_emospeech, ravdess
from omni.data.corpora.exchanges import Exchange
from omni.data.manifest import Clip
from omni.evaluation.metrics import (
    average_recall,
    best_constant,
    calibration_error,
    confusion,
    recall_interval,
    recalls,
)
from omni.evaluation.settings import Result, Row, Settings, Table, between, percent
from omni.phones import normalise
from omni.turns import COORDINATES, EMOTIONS, FITTING_STYLES, Heard, Perception

ACTORS = frozenset({"actor-15", "actor-16", "actor-17", "actor-18"})
FIRST_HELD_OUT_USER = 60
FLOOR, AIM = 0.50, 0.70
STYLE_POINTS_OVER_CONSTANT, STYLE_AIM = 0.10, 0.85


def run(assistant: Assistant, settings: Settings) -> Result:
    """RAVDESS actors 15 to 18 and Indian EmoSpeech users from 60 on, through the assistant's own `hear`."""
    acted = settings.sample([c for c in ravdess.read(settings.folder("ravdess")) if c.speaker in ACTORS])
    users = settings.sample(
        [c for c in indian_emospeech.read(settings.folder("indian_emospeech")) if held_out_user(c.speaker)]
    )
    heard = _hear(assistant, acted, "RAVDESS")
    places = _hear(assistant, users, "Indian EmoSpeech")
    training = settings.exchanges()[0]
    result = Result(counts={"ravdess_clips": len(acted), "indian_clips": len(users)})
    _emotions(result, acted, [p for _, p in heard])
    _users(result, users, [p for _, p in places])
    _words_only(result, acted, [h.text for h, _ in heard], training)
    _styles(result, assistant, acted, heard, settings.seed)
    return result


def held_out_user(speaker: str) -> bool:
    """Whether a speaker of Indian EmoSpeech is kept for evaluation: users 60 and up."""
    number = re.fullmatch(r"user-(\d+)", speaker)
    return number is not None and int(number[1]) >= FIRST_HELD_OUT_USER


def _hear(assistant: Assistant, clips: Sequence[Clip], what: str) -> list[tuple[Heard, Perception]]:
    return [
        assistant.hear(read_audio(clip.audio, assistant.config.audio)) for clip in tqdm(clips, desc=what, unit="clip")
    ]


def _true(clips: Sequence[Clip]) -> list[str]:
    return [clip.emotion or "" for clip in clips]


def _emotions(result: Result, clips: Sequence[Clip], seen: Sequence[Perception]) -> None:
    """Recall of eight, its interval, confusion matrix, calibration; by speaker."""
    true, guessed = _true(clips), [p.emotion for p in seen]
    value, interval = average_recall(true, guessed, EMOTIONS), recall_interval(true, guessed, EMOTIONS)
    right = [t == g for t, g in zip(true, guessed)]
    error = calibration_error([p.confidence for p in seen], right)
    result.rows.append(
        Row(
            "emotion, RAVDESS actors 15-18: unweighted average recall of 8",
            f"{value:.3f} (95 %: {interval[0]:.3f} to {interval[1]:.3f})",
            "chance 0.125",
            f"{FLOOR:.2f}",
            f"{AIM:.2f}",
            value >= FLOOR,
            value >= AIM,
        )
    )
    result.rows.append(Row("calibration error of the confidence, same clips (10 bins)", f"{error:.3f}"))
    counts = confusion(true, guessed, EMOTIONS)
    rows = [
        (name, *(str(n) for n in line), f"{r:.2f}") for name, line, r in zip(EMOTIONS, counts.tolist(), recalls(counts))
    ]
    result.tables.append(Table("Confusion, RAVDESS 15-18 (rows: true)", ("", *EMOTIONS, "recall"), rows))
    result.tables.append(_by_speaker(clips, guessed))
    result.numbers |= {"uar": value, "uar_interval": interval, "ece": error, "confusion": counts.tolist()}


def _by_speaker(clips: Sequence[Clip], guessed: Sequence[str]) -> Table:
    rows = []
    for speaker in sorted({c.speaker for c in clips}):
        places = [i for i, c in enumerate(clips) if c.speaker == speaker]
        value = average_recall([clips[i].emotion or "" for i in places], [guessed[i] for i in places], EMOTIONS)
        rows.append((speaker, str(clips[places[0]].extra.get("sex", "")), str(len(places)), f"{value:.3f}"))
    return Table("Recall of 8 by actor", ("actor", "sex", "clips", "recall"), rows)


def _users(result: Result, clips: Sequence[Clip], seen: Sequence[Perception]) -> None:
    """Recall of the four emotions that the set labels, the posterior restricted to them."""
    classes = indian_emospeech.EMOTIONS
    true = _true(clips)
    guessed = [max(classes, key=lambda e: p.probabilities.get(e, 0.0)) for p in seen]
    value, interval = average_recall(true, guessed, classes), recall_interval(true, guessed, classes)
    result.rows.append(
        Row(
            "emotion, Indian EmoSpeech users 60 and up: average recall of its 4",
            f"{value:.3f} (95 %: {interval[0]:.3f} to {interval[1]:.3f})",
            "chance 0.250",
        )
    )
    counts = confusion(true, guessed, classes)
    rows = [(n, *(str(k) for k in line), f"{r:.2f}") for n, line, r in zip(classes, counts.tolist(), recalls(counts))]
    result.tables.append(Table("Confusion, Indian EmoSpeech 60 and up (rows: true)", ("", *classes, "recall"), rows))
    result.numbers |= {"uar_indian": value, "uar_indian_interval": interval}


def words_to_emotion(training: Sequence[Exchange], texts: Sequence[str]) -> list[str]:
    """What words alone say of the emotion: TF-IDF and logistic regression learned from the written exchanges."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(preprocessor=normalise, token_pattern=r"[a-z']+", ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced"),
    )
    model.fit([e.say for e in training], [e.emotion for e in training])
    return [str(guess) for guess in model.predict(list(texts))]


def _words_only(result: Result, clips: Sequence[Clip], heard: Sequence[str], training: Sequence[Exchange]) -> None:
    """The same recall with the perceiver's answer replaced by what the recognised words alone give."""
    true, guessed = _true(clips), words_to_emotion(training, heard)
    value, interval = average_recall(true, guessed, EMOTIONS), recall_interval(true, guessed, EMOTIONS)
    chance = 1.0 / len(set(true))
    result.rows.append(
        Row(
            "words-only control, RAVDESS 15-18: recall of 8 from the recognised words",
            f"{value:.3f} (95 %: {interval[0]:.3f} to {interval[1]:.3f})",
            f"chance {chance:.3f}",
            "at chance",
            "",
            interval[0] <= chance <= interval[1] or value <= chance,
        )
    )
    result.numbers |= {"uar_words_only": value, "uar_words_only_interval": interval}


def toneless(perception: Perception) -> Perception:
    """The perception of a voice that tells nothing: neutral, no vector."""
    shares = {e: 1.0 if e == "neutral" else 0.0 for e in EMOTIONS}
    valence, arousal = COORDINATES["neutral"]
    return replace(
        perception, emotion="neutral", probabilities=shares, intensity=0.0, valence=valence, arousal=arousal,
        confidence=1.0, match="agrees", vector=np.zeros_like(perception.vector) if perception.vector is not None else None,
    )  # fmt: skip


def _styles(
    result: Result,
    assistant: Assistant,
    clips: Sequence[Clip],
    heard: Sequence[tuple[Heard, Perception]],
    seed: int,
) -> None:
    """Does the plan's style fit the true emotion? Beside the best constant and the plan made without the tone."""
    true = _true(clips)
    planned, deaf = [], []
    for words, seen in tqdm(heard, desc="planning", unit="clip"):
        planned.append(assistant.respond(words, seen, seed=seed).plan.style)
        deaf.append(assistant.respond(words, toneless(seen), seed=seed).plan.style)
    fits = [style in FITTING_STYLES[emotion] for style, emotion in zip(planned, true)]
    without = [style in FITTING_STYLES[emotion] for style, emotion in zip(deaf, true)]
    constant, share = best_constant(true, FITTING_STYLES)
    value = float(np.mean(fits))
    spread = np.random.default_rng(seed).binomial(len(fits), value, 2000) / len(fits)
    low, high = np.percentile(spread, [2.5, 97.5])
    result.rows.append(
        Row(
            "RAVDESS 15-18, the plan's style fits the true emotion",
            f"{percent(value)} (95 %: {between((float(low), float(high)))})",
            f"best constant style ({constant}) {percent(share)}; planned without the tone {percent(float(np.mean(without)))}",
            f"{percent(share + STYLE_POINTS_OVER_CONSTANT)} (10 points over the constant)",
            percent(STYLE_AIM, 0),
            value >= share + STYLE_POINTS_OVER_CONSTANT,
            value >= STYLE_AIM,
        )
    )
    rows = []
    for emotion in EMOTIONS:
        chosen = [s for s, e in zip(planned, true) if e == emotion]
        if chosen:
            fit = np.mean([s in FITTING_STYLES[emotion] for s in chosen])
            listed = ", ".join(f"{s} {chosen.count(s)}" for s in sorted(set(chosen), key=chosen.count, reverse=True))
            rows.append((emotion, listed, percent(float(fit), 0)))
    result.tables.append(Table("Styles planned for each true emotion", ("true emotion", "styles", "fit"), rows))
    result.numbers |= {"style_fit": value, "style_fit_constant": share, "style_fit_toneless": float(np.mean(without))}
