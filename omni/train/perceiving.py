"""Stage `perceiver`: emotion and intensity from acted and real voices, with read speech as weakly labelled calm.

Shapes: B batch, G members, W views, V emotion vector, E emotions.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from omni.config import AudioConfig, ListenerConfig, PerceiverConfig, build, dump
from omni.config import load as load_config
from omni.data.emotional import EmotionFeatures, Labelled, collate, gather, sets_of
from omni.errors import DataError
from omni.files import write_json, write_text
from omni.models.encoder import SpeechEncoder
from omni.models.functionals import functionals
from omni.models.perceiver import EmotionPerceiver
from omni.train.recipe import Recipe
from omni.turns import EMOTIONS


@dataclass(frozen=True)
class PerceiverData:
    """The `data` block of a perceiver recipe. `sources`: kind of set (see `data.emotional`) to its place below --data."""

    sources: dict
    shares: dict = field(default_factory=dict)  # kind -> share of every batch; equal ones when empty
    held_out_speakers: list[str] = field(default_factory=list)  # to validate on
    reserved_speakers: list[str] = field(default_factory=list)  # for the final measure: dropped here
    noise: str | None = None
    cache: str = "features"
    variants: int = 5  # disguised copies of every clip, beside the clip itself
    batch_clips: int = 32
    thin: dict = field(default_factory=dict)  # kind -> n: only every n-th clip of a large set
    crop_frames: int = 240  # training sees at most so much of a clip, a random piece
    longest_s: float = 5.0
    smoothing: float = 0.1
    view_weight: float = 0.3
    mixup: float = 0.3
    equaliser: float = 0.4  # size of the random smooth filter, in nats
    without_layers: float = 0.3  # share of steps without the listener's layers
    start: str | None = None  # weights to start from, for fine-tuning
    listener: str | None = None  # export folder of a listener below the runs' folder, when the model reads its layers
    temperature: float = 0.0  # 0: fitted on the held-out speakers


def partial_loss(logits: Tensor, targets: Tensor, supports: Tensor, smoothing: float) -> Tensor:
    """-log of the share of `targets` among `supports`, smoothed over the supports; [..., E] and bool [..., E] -> [...].

    With one target and every class in the support it is cross-entropy with label smoothing (Szegedy et al. 2016).
    """
    masked = logits.float().masked_fill(~supports, -math.inf)
    whole = masked.logsumexp(-1)
    hit = whole - masked.masked_fill(~targets, -math.inf).logsumexp(-1)
    flat = whole - torch.where(supports, logits.float(), 0.0).sum(-1) / supports.sum(-1)
    return (1 - smoothing) * hit + smoothing * flat


def average_recall(predicted: Tensor, truth: Tensor) -> float:
    """Unweighted average recall over the classes in `truth` [N] (ints)."""
    return float(torch.stack([(predicted[truth == k] == k).float().mean() for k in truth.unique()]).mean())


def calibration_error(probabilities: Tensor, truth: Tensor, bins: int = 10) -> float:
    """Expected calibration error of the top probability in equal bins (Guo et al. 2017, eq. 5). [N, E], ints [N]."""
    top, predicted = probabilities.max(-1)
    place = (top * bins).long().clamp(max=bins - 1)
    error = 0.0
    for k in place.unique():
        inside = place == k
        gap = (predicted[inside] == truth[inside]).float().mean() - top[inside].mean()
        error += float(gap.abs()) * float(inside.float().mean())
    return error


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The temperature in 0.3 to 5 with the least log loss. [N, E], ints [N]."""
    grid = torch.linspace(math.log(0.3), math.log(5.0), 121).exp()
    losses = torch.stack([F.cross_entropy(logits.float() / t, truth) for t in grid])
    return float(grid[losses.argmin()])


class Chosen:
    """Some clips of cached features: made once for all, so that other speakers can be held out without making them again."""

    def __init__(self, features: EmotionFeatures, places: list[int]) -> None:
        self.features, self.places = features, places
        self.layered = None if features.layered is None else features.layered[places]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.features[self.places[index]]


class PerceiverTask:
    """Trains `EmotionPerceiver`."""

    def __init__(self, recipe: Recipe, data: Path, cache: Path) -> None:
        self.recipe, self.settings = recipe, build(PerceiverData, recipe.data, "data")
        self.config = build(PerceiverConfig, recipe.model, "model")
        torch.manual_seed(recipe.seed)
        self.model = EmotionPerceiver(self.config, AudioConfig())
        if self.settings.start:
            self._start_from(load_file(data / self.settings.start))
        if self.settings.temperature:
            self.model.temperature.fill_(self.settings.temperature)
        listener = self._listener(cache.parent)
        noise = data / self.settings.noise if self.settings.noise else None
        items = self._items(data)
        held_out = set(self.settings.held_out_speakers)
        places = [n for n, item in enumerate(items) if item.clip.speaker not in held_out]
        held = [n for n, item in enumerate(items) if item.clip.speaker in held_out]
        if not places:
            raise DataError("no training clips are left after taking out held-out and reserved speakers; check `data`")
        held = held or places[: self.settings.batch_clips]
        self.train_items, self.held = [items[n] for n in places], [items[n] for n in held]
        folder, longest = cache / self.settings.cache, self.settings.longest_s
        clips, versions = [i.clip for i in items], range(self.settings.variants + 1)
        everything = [EmotionFeatures(clips, folder, v, noise, longest, listener) for v in versions]
        self.variants = [Chosen(v, places) for v in everything]
        self.validation = Chosen(everything[0], held)
        self.sums = [self._functionals(v) for v in self.variants]  # of each variant [clips, K]
        if not self.settings.start:
            self._standardise()
        self.labels = sets_of(self.train_items)
        self.weights = self._weights()
        self.scores: dict[str, Any] = {}

    def _start_from(self, weights: dict[str, Tensor]) -> None:
        """Take up weights; those for the listener's layers may be left behind, nothing else may be missing or over."""
        own = self.model.state_dict()
        over = {k for k in weights if k not in own}
        if any("layer" not in k for k in over) or own.keys() - weights.keys():
            raise DataError(f"data.start holds another perceiver than `model` says: {sorted(over)[:3]}")
        self.model.load_state_dict({k: v.float() for k, v in weights.items() if k in own})

    def _listener(self, runs: Path) -> SpeechEncoder | None:
        if not self.config.use_layers:
            return None
        if not self.settings.listener:
            raise DataError("model.use_layers needs data.listener, the export folder of a trained listener")
        folder = runs / self.settings.listener
        listener = SpeechEncoder(load_config(ListenerConfig, folder / "listener.yaml"), AudioConfig())
        listener.load_state_dict({k: v.float() for k, v in load_file(folder / "listener.safetensors").items()})
        return listener.eval().requires_grad_(False)

    def _standardise(self) -> None:
        """Give the model the mean and deviation of what it will see, over all variants."""
        everything = torch.cat(self.sums)
        self.model.usual.copy_(everything.mean(0))
        self.model.spread.copy_(everything.std(0).clamp_min(1e-3))
        layered = [v.layered for v in self.variants if v.layered is not None]
        if layered:
            self.model.layer_usual.copy_(torch.cat(layered).mean(0))
            self.model.layer_spread.copy_(torch.cat(layered).std(0).clamp_min(1e-3))

    def _items(self, data: Path) -> list[Labelled]:
        """Every labelled clip but those of reserved speakers and those that are thinned out."""
        reserved, seen, found = set(self.settings.reserved_speakers), Counter[str](), []
        for item in gather(data, self.settings.sources):
            seen[item.source] += 1
            left_out = seen[item.source] % self.settings.thin.get(item.source, 1) != 0
            if item.clip.speaker not in reserved and not left_out:
                found.append(item)
        return found

    def _functionals(self, features: Chosen) -> Tensor:
        """Functionals of all clips, once: in training they would cost as much as the rest of the model. [clips, K]."""
        found = []
        for start in range(0, len(self.train_items), 16):
            span = range(start, min(start + 16, len(self.train_items)))
            mel, lengths, prosody = collate([features[i] for i in span])
            found.append(functionals(self.model.centred(mel, lengths), prosody, lengths))
        return torch.cat(found)

    def _weights(self) -> Tensor:
        """Probability of drawing each clip: its set's share, then equal emotions within the set."""
        keys = [(i.source, tuple(sorted(i.target))) for i in self.train_items]
        counts = Counter(keys)
        kinds = Counter(source for source, _ in counts)
        shares = self.settings.shares or dict.fromkeys(kinds, 1.0)
        missing = sorted(set(kinds) - set(shares))
        if missing:
            raise DataError(f"data.shares: no share for {missing[0]!r}; give one for each of {', '.join(kinds)}")
        return torch.tensor([shares[k[0]] / kinds[k[0]] / counts[k] for k in keys], dtype=torch.float64)

    def batch(self, step: int) -> tuple[Tensor, ...]:
        """mel, frames, prosody, functionals [B, K], layers' statistics (or none), targets, supports, intensities."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        chosen = torch.multinomial(self.weights, self.settings.batch_clips, replacement=True, generator=generator)
        which = torch.randint(len(self.variants), (len(chosen),), generator=generator).tolist()
        pairs = list(zip(which, chosen.tolist(), strict=True))
        mel, lengths, prosody = collate([self._piece(self.variants[v][i], generator) for v, i in pairs])
        mel = mel + self.settings.equaliser * smooth_filters(len(chosen), mel.shape[2], generator)
        summed = torch.stack([self.sums[v][i] for v, i in pairs])
        heard = [known[i] for v, i in pairs if (known := self.variants[v].layered) is not None]
        layered = torch.stack(heard) if heard else torch.zeros(0)
        return mel, lengths, prosody, summed, layered, *(part[chosen] for part in self.labels)

    def _piece(self, clip: tuple[Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random piece of at most `crop_frames` of a clip: [T, M] and [T, P]."""
        mel, prosody = clip
        longest = self.settings.crop_frames if self.config.use_trunk else 1  # functionals are of the whole clip
        start = int(torch.randint(max(0, len(mel) - longest) + 1, (), generator=generator))
        span = slice(start, start + longest)
        return mel[span], prosody[span]

    def loss(self, batch: tuple[Tensor, ...], step: int) -> tuple[Tensor, dict[str, float]]:
        """Members' and views' losses with mixup of emotion vectors (Verma et al. 2019, arXiv 1806.05236)."""
        mel, lengths, prosody, summed, layered, targets, supports, strengths = batch
        skip = len(layered) == 0 or bool(torch.rand(()) < self.settings.without_layers)
        views = self.model.views(mel, lengths, None if skip else layered, prosody, summed).float()
        amount = self.settings.mixup
        share = float(torch.distributions.Beta(amount, amount).sample().item()) if amount else 1.0
        order = torch.randperm(len(mel)) if amount else torch.arange(len(mel))
        views = share * views + (1 - share) * views[order]
        total = torch.zeros(())
        for part, rows in ((share, slice(None)), (1 - share, order)):
            total = total + part * self._objective(views, targets[rows], supports[rows], strengths[rows])
        return total, {"share": share}

    def _objective(self, views: Tensor, targets: Tensor, supports: Tensor, strengths: Tensor) -> Tensor:
        smoothing = self.settings.smoothing
        logits, strength = self.model.heads(views.mean(2))  # [B, G, E], [B, G]
        wide = (targets[:, None].expand_as(logits), supports[:, None].expand_as(logits))
        total = partial_loss(logits, *wide, smoothing).mean()
        each = self.model.heads(views)[0]  # [B, G, W, E]
        wider = (targets[:, None, None].expand_as(each), supports[:, None, None].expand_as(each))
        total = total + self.settings.view_weight * partial_loss(each, *wider, smoothing).mean()
        known = ~strengths.isnan()
        if bool(known.any()):
            truth = strengths[known][:, None].expand_as(strength[known])
            total = total + 0.3 * F.binary_cross_entropy_with_logits(strength[known], truth)
        return total

    @torch.no_grad()
    def held_out_outputs(self, with_layers: bool = True) -> tuple[Tensor, Tensor]:
        """Logits [N, E] and intensities [N] of the held-out clips."""
        logits, strengths = [], []
        for start in range(0, len(self.held), 16):
            span = range(start, min(start + 16, len(self.held)))
            mel, lengths, prosody = collate([self.validation[i] for i in span])
            layered = self.validation.layered
            heard = layered[span.start : span.stop] if layered is not None and with_layers else None
            out = self.model.output(self.model.views(mel, lengths, heard, prosody))
            logits.append(out.logits.float())
            strengths.append(out.intensity.float())
        return torch.cat(logits), torch.cat(strengths)

    def validate(self) -> dict[str, float]:
        """1 - unweighted average recall of each labelled set, calibration, intensity; share of read speech called plain."""
        logits, strengths = self.held_out_outputs()
        figures: dict[str, float] = {}
        truth_sets, supports, intensities = sets_of(self.held)
        sources = [i.source for i in self.held]
        main = "own" if "own" in sources else "ravdess" if "ravdess" in sources else sources[0]
        for source in sorted(set(sources), key=lambda s: s != main):
            rows = torch.tensor([s == source for s in sources])
            found, truth = logits[rows].masked_fill(~supports[rows], -math.inf), truth_sets[rows]
            if source == "plain":
                figures["plain_missed"] = 1 - float(truth.gather(1, found.argmax(-1)[:, None]).float().mean())
                continue
            answer = truth.float().argmax(-1)
            figures[f"{source}_missed"] = 1 - average_recall(found.argmax(-1), answer)
            if source == main:
                temperature = self.settings.temperature or fit_temperature(found, answer)
                self.model.temperature.fill_(temperature)
                figures["temperature"] = temperature
                figures["calibration_error"] = calibration_error((found / temperature).softmax(-1), answer)
                known = rows & ~intensities.isnan()
                if bool(known.any()):
                    right = ((strengths > 0.5).float() == intensities)[known]
                    figures["intensity_missed"] = 1 - float(right.float().mean())
        self.scores = {k: round(v, 4) for k, v in figures.items()}
        return figures

    def export(self, folder: Path) -> None:
        """`perceiver.safetensors` (half precision), `perceiver.yaml`, `scores.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.half() if v.is_floating_point() else v for k, v in self.model.state_dict().items()}
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "perceiver.safetensors")
        write_text(folder / "perceiver.yaml", dump(self.config), force=True)
        held = sorted({i.clip.speaker for i in self.held})
        settings = dataclasses.asdict(self.settings)
        write_json(
            folder / "scores.json",
            {"held_out_speakers": held, "scores": self.scores, "emotions": EMOTIONS, "data": settings["sources"]},
            force=True,
        )


def smooth_filters(clips: int, mels: int, generator: torch.Generator) -> Tensor:
    """Random smooth curves over the bins, for the colour of rooms and microphones: [B, 1, M] with deviation near 1."""
    bins = (torch.arange(mels) + 0.5) / mels
    waves = torch.stack([torch.cos(math.pi * k * bins) for k in (1, 2, 3)])
    return (torch.randn(clips, 3, generator=generator) @ waves)[:, None]
