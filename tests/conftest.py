"""Fixtures of the whole suite: no network, one thread, synthetic clips, and a tiny checkpoint of random weights."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import nn

from omni.config import AudioConfig, DecoderConfig, ListenerConfig, LlmConfig, OmniConfig, PerceiverConfig, dump
from omni.turns import EMOTIONS, Audio, Perception

torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]
SAMPLE_RATE_HZ = 16_000
TEXTS = (
    "my dog ran away this morning", "i got the job, can you believe it?", "what time does the train leave?",
    "he never said sorry for it.", "we are going to the lake on sunday!", "there was a noise under the stairs",
    "that sounds like a long day.", "what did your friend say about the job?", "look for the dog near the lake.",
    "you waited a long time for this train.", "who else heard the noise?", "sunday at the lake will be lovely!",
)  # fmt: skip


# -- rules of the suite ------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than five seconds; `make unit` leaves it out")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """With OMNI_REQUIRE_ALL=1 nothing may be skipped: a skip is a failure that says why."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("OMNI_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"OMNI_REQUIRE_ALL=1, but {item.nodeid} was skipped: {report.longrepr}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, None]:
    """The same for a file that skips as a whole."""
    outcome = yield
    report = outcome.get_result()
    if report.outcome == "skipped" and os.environ.get("OMNI_REQUIRE_ALL") == "1":
        report.outcome = "failed"
        report.longrepr = f"OMNI_REQUIRE_ALL=1, but {collector.nodeid} was skipped: {report.longrepr}"


class NetworkUsed(RuntimeError):
    """A test tried to reach another machine."""


def _local(address: Any) -> bool:
    return not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections to anything but this machine fail the test, even where the code would swallow the error."""
    tried: list[Any] = []

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _local(address):
                tried.append(address)
                raise NetworkUsed(f"a test may not connect to {address}")
            return real(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield
    assert not tried, f"the test tried to connect to {tried}"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same start for every test: no settings from the shell, a fixed global seed."""
    for name in ("OMNI_DATA", "OMNI_HOME"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="module")
def tidy() -> Iterator[None]:
    """Free a file's models before the next one begins."""
    yield
    gc.collect()


# -- sound -------------------------------------------------------------------------------------------------------------


def voiced_clip(seconds: float = 1.5, pitch_hz: float = 140.0, seed: int = 0) -> np.ndarray:
    """Something like a voice: a pulse train through three formants, four syllables a second, a little breath."""
    count = round(seconds * SAMPLE_RATE_HZ)
    time = np.arange(count) / SAMPLE_RATE_HZ
    draw = np.random.default_rng(seed)
    glide = pitch_hz * (1 + 0.12 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(glide) / SAMPLE_RATE_HZ
    sound = np.zeros(count)
    for harmonic in range(1, 26):
        frequency = harmonic * glide
        gain = sum(np.exp(-(((frequency - f) / w) ** 2)) * g for f, w, g in ((600, 220, 1.0), (1400, 280, 0.5), (2500, 400, 0.25)))
        sound += (gain + 0.02) * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 2 * time) ** 2 * 1.4 - 0.2, 0, 1)
    sound = sound * syllables + 0.003 * draw.standard_normal(count)
    return (0.5 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture
def voice() -> Audio:
    """A second and a half of something like a voice."""
    return Audio(voiced_clip())


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small sound files by name: three that can be heard, and some that cannot."""
    folder = tmp_path_factory.mktemp("clips")
    made = {name: folder / f"{name}.wav" for name in ("low", "high", "flac", "silent", "short")}
    made["flac"] = folder / "other.flac"
    soundfile.write(made["low"], voiced_clip(1.2, 110), SAMPLE_RATE_HZ)
    soundfile.write(made["high"], voiced_clip(1.4, 210, 1), 22_050)
    soundfile.write(made["flac"], voiced_clip(1.0, 160, 2), SAMPLE_RATE_HZ)
    soundfile.write(made["silent"], np.zeros(16_000, np.float32), SAMPLE_RATE_HZ)
    soundfile.write(made["short"], voiced_clip(0.05), SAMPLE_RATE_HZ)
    made["text"] = folder / "text.wav"
    made["text"].write_text("this is not sound\n")
    return made


def make_perception(emotion: str = "sad", sure: float = 0.8, **values: Any) -> Perception:
    """A perception of one emotion, the rest of the probability shared evenly."""
    rest = (1 - sure) / (len(EMOTIONS) - 1)
    shares = {e: sure if e == emotion else rest for e in EMOTIONS}
    base = Perception(emotion, shares, 0.5, -0.4, 0.1, sure, vector=np.full(TINY.perceiver.vector, 0.1, np.float32))
    return replace(base, **values)


@pytest.fixture
def perceived() -> Callable[..., Perception]:
    """`make_perception`."""
    return make_perception


# -- a tiny checkpoint of random weights -------------------------------------------------------------------------------

TINY = OmniConfig(
    name="tiny",
    listener=ListenerConfig(width=16, feedforward=16, heads=2, outer_layers=1, inner_layers=1, last_layers=1),
    perceiver=PerceiverConfig(
        width=8, vector=8, blocks=1, members=2, listener_layers=3, listener_width=16, use_layers=True
    ),
    llm=LlmConfig(
        vocabulary=200, width=32, layers=2, heads=2, key_value_heads=2, feedforward=48, reply_tokens=14, candidates=3
    ),
    decoder=DecoderConfig(width=16, encoder_layers=1, decoder_layers=1, heads=2, feedforward=24, llm_width=32),
)


def _half(module: nn.Module, path: Path, without: str = "") -> None:
    weights = {k: v for k, v in module.state_dict().items() if not without or not k.endswith(without)}
    save_file({k: (v.half() if v.is_floating_point() else v).contiguous().clone() for k, v in weights.items()}, path)


def _write_words(path: Path) -> None:
    from omni.nn.lexicon import Lexicon, pronunciations
    from omni.nn.ngram import SPECIAL
    from omni.phones import normalise
    from omni.train.ngrams import encode, estimate

    sentences = [normalise(t).split() for t in TEXTS]
    words = [*SPECIAL, *sorted({w for s in sentences for w in s})]
    model = estimate(encode(sentences, words), words)
    model.save(path, Lexicon(pronunciations(words, len(SPECIAL))).tensors())


def write_runs(runs: Path, seed: int = 0) -> OmniConfig:
    """The exports of a whole training, as `omni pack` reads them, with random weights. Returns the configuration."""
    from omni.models.adapter import EmotionAdapter, SpeechAdapter
    from omni.models.decoder import ExpressiveDecoder
    from omni.models.encoder import SpeechEncoder
    from omni.models.perceiver import EmotionPerceiver
    from omni.models.speech_llm import SpeechLLM
    from omni.models.words import WordSentiment
    from omni.nn.sampling import Blocker
    from omni.packing import BLOCKS, FILES
    from omni.text import Vocabulary

    torch.manual_seed(seed)
    vocabulary = Vocabulary.train(TEXTS * 3, TINY.llm.vocabulary, {"sunday": "Sunday"})
    config = replace(TINY, llm=replace(TINY.llm, vocabulary=len(vocabulary)))
    sentiment = WordSentiment(["lovely", "sorry", "not_lovely"])
    with torch.no_grad():
        sentiment.weights.weight.copy_(torch.tensor([[-2.0, 0.0, 3.0], [2.0, 0.0, -2.0], [2.0, 0.0, -3.0]]))
    hashes = Blocker.learn([vocabulary.encode(t) for t in TEXTS], config.llm.blocked_run_tokens)
    writers: dict[str, Callable[[Path], Any]] = {
        "listener.safetensors": lambda p: _half(SpeechEncoder(config.listener, config.audio), p),
        "words.safetensors": _write_words,
        "perceiver.safetensors": lambda p: _half(EmotionPerceiver(config.perceiver, config.audio), p),
        "sentiment.safetensors": sentiment.save,
        "language_model.safetensors": lambda p: _half(SpeechLLM(config.llm, vocabulary), p, "lm_head.weight"),
        "tokenizer.json": lambda p: vocabulary.save(p.parent),
        "names.json": lambda p: None,  # written with the tokenizer
        "spoken_before.safetensors": lambda p: save_file({"hashes": hashes}, p, metadata={"size": "6"}),
        "speech_adapter.safetensors": lambda p: _half(SpeechAdapter(config.listener.width, config.llm.width), p),
        "emotion_adapter.safetensors": lambda p: _half(EmotionAdapter(config.perceiver.vector, config.llm.width), p),
        "voice.safetensors": lambda p: _half(ExpressiveDecoder(config.decoder), p),
    }
    for part in FILES:
        folder = runs / part.run / "export"
        folder.mkdir(parents=True, exist_ok=True)
        if part.name in writers:
            writers[part.name](folder / part.name)
        else:
            assert not part.required, f"{part.name} is new in omni.packing; write it here too"
    for block, (run, name) in BLOCKS.items():
        if block != "vocoder":
            (runs / run / "export" / name).write_text(dump(getattr(config, block)), encoding="utf-8")
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "valid_phone_error_rate": 0.5}]
    (runs / "listener" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return config


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of finished training runs of the tiny sizes. Do not change it."""
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint folder with very small random weights. Do not change it; see `damaged`."""
    from omni.packing import pack

    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    pack(runs, folder)
    return folder


@pytest.fixture
def own_checkpoint(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint that a test may damage."""
    import shutil

    return Path(shutil.copytree(checkpoint, tmp_path / "own"))


@pytest.fixture(scope="session")
def assistant(checkpoint: Path) -> Any:
    """The assistant of the tiny checkpoint. It keeps no state; do not change its parts (see `understanding`)."""
    from omni.assistant import Assistant

    return Assistant.load(checkpoint)


@pytest.fixture
def understanding(assistant: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The assistant with a recogniser that always makes out the same words: random weights understand nothing."""
    from omni.turns import Heard

    monkeypatch.setattr(assistant.parts.listener.decoder, "decode", lambda _: Heard("my dog ran away", 0.9))
    monkeypatch.setattr("omni.assistant.speech_likelihood", lambda _: 1.0)
    return assistant


@pytest.fixture(scope="session")
def audio_config() -> AudioConfig:
    return AudioConfig()
