"""Fit the listener's word search to a trained listener: weights, unit priors and confidence, on held-out speakers.

Run it again whenever the listener's weights change: `tune_search(data, listener, words, out)`.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio
from safetensors.torch import load_file
from tqdm import tqdm

from omni.audio.features import log_mel
from omni.config import ListenerConfig, load
from omni.data.manifest import Clip, by_speaker, read
from omni.data.voices import Voice, speak
from omni.errors import DataError, ModelError
from omni.models.encoder import SpeechEncoder
from omni.nn.beam import LexiconDecoder
from omni.phones import normalise
from omni.train.wording import Utterance, fit_confidence, tune, word_errors

log = logging.getLogger(__name__)
HELD_OUT_SPEAKERS = ("32", "1737", "5789", "7859")
#: What somebody may say who does not speak English; for the confidence only.
FOREIGN = {
    "de": "Ich habe gestern meine Schwester am Bahnhof abgeholt, und wir sind zusammen nach Hause gegangen.",
    "fr-fr": "Je ne sais pas encore si nous partirons demain matin ou seulement la semaine prochaine.",
    "es": "Mi abuela siempre preparaba una sopa muy rica cuando llegaba el invierno a nuestro pueblo.",
    "it": "Questa mattina il treno era in ritardo e ho dovuto aspettare quasi un'ora sotto la pioggia.",
    "pl": "Wczoraj wieczorem długo rozmawialiśmy o tym, dokąd pojedziemy latem na wakacje.",
    "tr": "Bugün hava çok güzel, arkadaşlarımla birlikte deniz kenarında yürüyüş yapmak istiyorum.",
    "sv": "Jag glömde mina nycklar på jobbet igår och fick vänta utanför dörren i två timmar.",
    "pt-br": "O meu irmão comprou um carro novo, mas ainda não aprendeu a dirigir direito.",
}


def load_listener(folder: Path) -> SpeechEncoder:
    """The encoder exported by the listener's recipe. ModelError when the files are missing."""
    if not (folder / "listener.safetensors").is_file():
        raise ModelError(
            f"no listener.safetensors in {folder}; train the listener first (recipes/mini/0_listener.yaml)"
        )
    encoder = SpeechEncoder(load(ListenerConfig, folder / "listener.yaml"))
    encoder.load_state_dict({k: v.float() for k, v in load_file(folder / "listener.safetensors").items()})
    return encoder.eval()


@torch.inference_mode()
def posteriors(encoder: SpeechEncoder, samples: np.ndarray) -> np.ndarray:
    """Log-posteriors [S, P] of sound [N] at 16 kHz."""
    mel = log_mel(torch.from_numpy(np.ascontiguousarray(samples, np.float32)))[None]
    out = encoder(mel, torch.tensor([mel.shape[1]]))
    return out.logits[0, : int(out.lengths[0])].float().log_softmax(-1).numpy()


def _sound(clip: Clip) -> np.ndarray:
    samples, _ = soundfile.read(clip.audio, dtype="float32", always_2d=True)
    return samples.mean(1)


def no_speech(clips: list[Clip], noise: Path, seed: int = 0) -> list[np.ndarray]:
    """Sound [N] in which there are no English words: clips backwards, pieces of noise, other languages, hiss, hum."""
    draw = random.Random(seed)
    found = [_sound(clip)[::-1].copy() for clip in clips]
    for path in sorted(noise.glob("*.flac")):
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        for _ in range(4):
            length = draw.randint(24_000, 96_000)
            start = draw.randrange(max(1, len(samples) - length))
            found.append(samples[start : start + length].mean(1))
    for language, text in FOREIGN.items():
        try:
            found.extend(speak(text, Voice("espeak-ng", language + variant)) for variant in ("", "+f2"))
        except (DataError, OSError) as error:
            log.warning("no reading in %s: %s", language, error)
    generator = np.random.default_rng(seed)
    time_s = np.arange(48_000) / 16_000
    found.extend(0.05 * generator.standard_normal(32_000) for _ in range(4))
    found.extend(0.2 * np.sin(2 * np.pi * hz * time_s) for hz in (50.0, 220.0, 440.0, 1000.0))
    return [sound.astype(np.float32) for sound in found]


def tune_search(
    data: Path,
    listener: Path,
    words: Path,
    out: Path,
    seconds: float = 300.0,
    rounds: int = 2,
    longest_s: float = 16.0,
    seed: int = 1,
) -> dict[str, float]:
    """Tune the search of the file `words` to the listener exported in the folder `listener`; write the file `out`.

    Clips of the held-out speakers up to `longest_s` are heard; about `seconds` of them serve for the weights, the others
    for the report and the confidence. Returns word error rates (greedy and by the search, on the clips that tuning did
    not use) and how the confidence separates speech from other sound.
    """
    encoder, decoder = load_listener(listener), LexiconDecoder.load(words)
    clips = [clip for clip in read(data / "librispeech" / "train.jsonl") if clip.text]
    held = [clip for clip in by_speaker(clips, set(HELD_OUT_SPEAKERS))[1] if clip.duration_s <= longest_s]
    random.Random(seed).shuffle(held)
    heard = [(posteriors(encoder, _sound(c)), normalise(c.text or "")) for c in tqdm(held, desc="hearing", unit="clip")]
    lengths = np.cumsum([len(p) for p, _ in heard]) / 25.0
    cut = int(np.searchsorted(lengths, min(seconds, 0.6 * lengths[-1]))) + 1
    used, rest = heard[:cut], heard[cut:]
    tuned = tune(decoder, used, rounds)
    other = [posteriors(encoder, s) for s in no_speech(held[::4], data / "noise" / "noise", seed)]
    tuned = fit_confidence(tuned, rest, other)
    tuned.save(out)
    return {
        "wer_greedy": _greedy_errors(decoder, rest),
        "wer": word_errors(tuned, rest),
        "understood_speech": float(np.mean([tuned.decode(p).understood for p, _ in rest])),
        "understood_other": float(np.mean([tuned.decode(p).understood for p in other])),
        "tuning_seconds": float(lengths[cut - 1]),
        "report_seconds": float(lengths[-1] - lengths[cut - 1]),
    }


def _greedy_errors(decoder: LexiconDecoder, utterances: list[Utterance]) -> float:
    errors = sum(torchaudio.functional.edit_distance(decoder.greedy(p).split(), r.split()) for p, r in utterances)
    return errors / max(1, sum(len(r.split()) for _, r in utterances))
