"""`omni bench --preset P --random-weights`: how quick a preset is on this machine, measured without its weights.

Speed depends on architecture, precision and counts, not on what the weights are, so the published configurations are enough.
Beside each model that writes tokens stand transformers' own `generate`, by turns in the same run, and the most tokens that the
memory's bandwidth allows, since every token has to read the weights.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from omni.backbones.kinds import check, chosen_device, chosen_dtype
from omni.bench_stages import (
    CLAUSE_WORDS,
    PROMPT_TOKENS,
    QUERY_S,
    QUERY_TOKENS,
    REPLY_TOKENS,
    REPLY_WORDS,
    THOUGHT_TOKENS,
    TOKENS_A_WORD,
    Stage,
    Workshop,
    Written,
    synchronise,
)
from omni.errors import ConfigError
from omni.evaluation import memory
from omni.evaluation.report import OF_PRESET, render, save
from omni.evaluation.settings import Result, Row, Table
from omni.preset import OWN, Preset, load_preset

#: Said wherever figures of `--tiny` appear.
TINY_NOTE = "**Tiny layers (--tiny): these figures show that the bench runs and say nothing of the preset's speed.**"
#: What every run holds to.
COUNTS = {
    "query seconds": round(QUERY_S), "transcript tokens": QUERY_TOKENS, "prompt tokens": PROMPT_TOKENS,
    "thought tokens": THOUGHT_TOKENS, "reply words": REPLY_WORDS, "reply tokens": REPLY_TOKENS,
}  # fmt: skip
#: Far more than any cache holds.
_COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}


@dataclass
class Taken:
    """What rounds of one stage took: seconds of each step, and the writing by us and by `generate`."""

    steps_s: dict[str, list[float]] = field(default_factory=dict)
    ours: list[Written] = field(default_factory=list)
    generated: list[Written] = field(default_factory=list)
    sound_s: float = 0.0

    def step_s(self, name: str | None = None) -> float:
        """Median of a step, or of all together."""
        return sum(statistics.median(v) for k, v in self.steps_s.items() if name in (None, k))

    def prefill_s(self) -> float:
        """Median of reading the prompt; 0 where nothing is written."""
        return statistics.median(w.prefill_s for w in self.ours) if self.ours else 0.0

    def written_s(self, tokens: int | None = None) -> float:
        """Median of the time to so many tokens, prompt included; None is all."""
        return statistics.median(w.stamps_s[(tokens or 0) - 1] for w in self.ours) if self.ours else 0.0


def run(
    name: str, device: str = "auto", out: Path = Path("docs"), tiny: bool = False, compiled: bool = False,
    rounds: int = 5,
) -> dict[str, Any]:  # fmt: skip
    """Measure a preset; write OUT/results/bench-NAME.json (`bench-NAME-tiny` with `tiny`) and OUT/results.md.

    Returns the numbers. ConfigError for a preset without published models, ModelError for a model that cannot be built.
    """
    preset = load_preset(name)
    check(preset)
    if all(spec.kind == OWN for spec in preset.parts.values()):
        raise ConfigError(f"preset {preset.name} has no published models; measure it with: omni bench")
    device = chosen_device(device)
    dtype = chosen_dtype(preset.dtype, device)
    bandwidth = copy_bandwidth(device, 2**22 if tiny else _COPIED_BYTES.get(device.split(":")[0], 2**28))
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    workshop = Workshop(device, dtype, tiny, compiled)
    stages = {part: workshop.stage(part, spec) for part, spec in preset.parts.items()}
    result = _result(preset, device, stages, _rounds(stages, device, rounds), bandwidth, tiny)
    precision = str(dtype).removeprefix("torch.")
    result.notes = [*([TINY_NOTE] if tiny else []), _conditions(device, precision, compiled)]
    result.counts = {"rounds": rounds, **COUNTS}
    flags = "".join((f" --device {device}", " --tiny" if tiny else "", " --compile" if compiled else ""))
    options = {
        "model": f"random for {preset.name}, shipped", "command": f"omni bench --preset {name} --random-weights{flags}",
        "device": device, "dtype": precision, "tiny": tiny, "compiled": compiled,
    }  # fmt: skip
    save(out, f"{OF_PRESET}{preset.name}{'-tiny' if tiny else ''}", result, options)
    render(out)
    return result.numbers


def copy_bandwidth(device: str, size: int, repeats: int = 15) -> float:
    """Bytes a second that copying a tensor of `size` bytes moves, read and write both counted: median."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, spent = torch.empty_like(source), []
    for _ in range(repeats + 1):
        synchronise(device)
        began = time.perf_counter()
        target.copy_(source)
        synchronise(device)
        spent.append(time.perf_counter() - began)
    del source, target
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return 2 * size / statistics.median(spent[1:])


def _rounds(stages: dict[str, Stage], device: str, rounds: int) -> dict[str, Taken]:
    """Every stage in every round, ours and `generate` first by turns; one round before them warms up."""
    taken = {part: Taken() for part in stages}
    for number in tqdm(range(rounds + 1), desc="rounds", unit="round"):
        for part, stage in stages.items():
            once = _once(stage, device, ours_first=number % 2 == 0)
            if number:
                _add(taken[part], once)
    return taken


def _once(stage: Stage, device: str, ours_first: bool) -> Taken:
    found = Taken()
    for name, step in stage.steps.items():
        synchronise(device)
        began = time.perf_counter()
        made = step()
        synchronise(device)
        found.steps_s[name] = [time.perf_counter() - began]
        if name == "whole":
            found.sound_s = float(made)
    if stage.writer is not None:
        ways = [(found.ours, stage.writer.ours), (found.generated, stage.writer.generated)]
        for kept, write in ways if ours_first else reversed(ways):
            kept.append(write())
    return found


def _add(total: Taken, once: Taken) -> None:
    for name, spent in once.steps_s.items():
        total.steps_s.setdefault(name, []).extend(spent)
    total.ours += once.ours
    total.generated += once.generated
    total.sound_s = once.sound_s


# -- what it comes to --------------------------------------------------------------------------------------------------


def _result(
    preset: Preset, device: str, stages: dict[str, Stage], taken: dict[str, Taken], bandwidth: float, tiny: bool
) -> Result:
    hears, thinks, speaks = taken["listener"], taken["responder"], taken["voice"]
    hearing = hears.step_s() + hears.written_s()
    perceiving = taken["perceiver"].step_s() + taken["sentiment"].step_s()
    to_clause = thinks.written_s(stages["responder"].first_tokens)
    first_voice = speaks.written_s(stages["voice"].first_tokens) + speaks.step_s("first")
    first = hearing + perceiving + to_clause + first_voice
    whole = hearing + perceiving + thinks.written_s() + speaks.written_s() + speaks.step_s("whole")
    decoded = {part: _decoding(s, taken[part], bandwidth) for part, s in stages.items() if s.writer}
    peak = torch.cuda.max_memory_allocated(device) / 1e6 if device.startswith("cuda") else memory.peak_mb()
    numbers = {
        "hearing_ms": 1000 * hearing,
        "perceiving_ms": 1000 * perceiving,
        "prefill_ms": 1000 * thinks.prefill_s(),
        "first_sound_ms": 1000 * first,
        "whole_reply_ms": 1000 * whole,
        "reply_s": speaks.sound_s,
        "real_time_factor": whole / speaks.sound_s,
        "peak_memory_mb": peak,
        "copy_bandwidth_gb_s": bandwidth / 1e9,
        "decoding": decoded,
        "tiny": tiny,
    }
    about = f"{'TINY, no real figures: ' if tiny else ''}{preset.name} with random weights on {device.split(':')[0]}"
    thought = decoded["responder"]
    made_of = (
        f"hearing {1000 * hearing:.0f}, perceiving {1000 * perceiving:.0f}, thought and clause {1000 * to_clause:.0f}"
    )
    rows = [
        Row(f"{about}: hearing {QUERY_S:g} s", f"{1000 * hearing:.0f} ms", _steps(hears)),
        Row(f"{about}: perceiving", f"{1000 * perceiving:.0f} ms", _steps(taken["perceiver"])),
        Row(f"{about}: reading a prompt of {PROMPT_TOKENS} tokens", f"{1000 * thinks.prefill_s():.0f} ms",
            f"`generate`: {thought['generate_prefill_ms']:.0f} ms"),
        Row(f"{about}: tokens a second", f"{thought['tokens_a_second']:.1f}",
            f"`generate`: {thought['generate_tokens_a_second']:.1f}; bound by memory {thought['bound_tokens_a_second']:.1f}"),
        Row(f"{about}: from the query's end to the first sound", f"{1000 * first:.0f} ms",
            f"{made_of}, voice {1000 * first_voice:.0f} ms"),
        Row(f"{about}: making a whole reply over its length", f"{whole / speaks.sound_s:.3f}",
            f"{whole:.2f} s for {speaks.sound_s:.2f} s of sound"),
        Row(f"{about}: peak memory", f"{peak:.0f} MB", "of the GPU" if device.startswith("cuda") else "of the process"),
    ]  # fmt: skip
    return Result(rows, [_step_table(stages, taken), _decoding_table(stages, decoded)], numbers=numbers)


def _decoding(stage: Stage, taken: Taken, bandwidth: float) -> dict[str, float]:
    assert stage.writer is not None
    weights = stage.writer.decoder.bytes_a_step()
    ours = statistics.median(w.tokens_a_second for w in taken.ours)
    theirs = statistics.median(w.tokens_a_second for w in taken.generated)
    bound = bandwidth / weights
    return {
        "tokens": float(stage.writer.tokens),
        "tokens_a_second": ours,
        "generate_tokens_a_second": theirs,
        "generate_prefill_ms": 1000 * statistics.median(w.prefill_s for w in taken.generated),
        "over_generate": ours / theirs,
        "weights_mb": weights / 1e6,
        "bound_tokens_a_second": bound,
        "of_bound": ours / bound,
        "generate_of_bound": theirs / bound,
    }


def _steps(taken: Taken) -> str:
    found = [f"{name} {1000 * taken.step_s(name):.0f}" for name in taken.steps_s]
    if taken.ours:
        found.append(f"writing {1000 * taken.written_s():.0f}")
    return ", ".join(found) + " ms" if found else "with the hearing"


def _spread(name: str, seconds: Sequence[float]) -> tuple[str, str, str]:
    return name, f"{1000 * statistics.median(seconds):.1f}", f"{1000 * max(seconds):.1f}"


def _step_table(stages: dict[str, Stage], taken: dict[str, Taken]) -> Table:
    rows = []
    for part, found in taken.items():
        rows += [_spread(f"{part}: {name}", spent) for name, spent in found.steps_s.items()]
        if found.ours:
            rows.append(_spread(f"{part}: prompt", [w.prefill_s for w in found.ours]))
            rows.append(_spread(f"{part}: tokens after the first", [w.stamps_s[-1] - w.prefill_s for w in found.ours]))
    used = ", ".join(f"{part} {stage.model}" for part, stage in stages.items())
    note = f"{used}. The voice's first piece is a clause of {CLAUSE_WORDS} words."
    return Table("Time of each step, ms", ("step", "median", "longest"), rows, note)


def _decoding_table(stages: dict[str, Stage], decoded: dict[str, dict[str, float]]) -> Table:
    rows = [
        (
            part, stages[part].model, f"{d['tokens']:.0f}", f"{d['tokens_a_second']:.1f}",
            f"{d['generate_tokens_a_second']:.1f}", f"{d['over_generate']:.2f}", f"{d['weights_mb']:.0f}",
            f"{d['bound_tokens_a_second']:.1f}", f"{d['of_bound']:.2f}", f"{d['generate_of_bound']:.2f}",
        )
        for part, d in decoded.items()
    ]  # fmt: skip
    columns = (
        "part", "model", "tokens", "tokens a second", "`generate`", "ours / `generate`", "weights read, MB", "bound",
        "ours / bound", "`generate` / bound",
    )  # fmt: skip
    note = (
        "The bound is the bandwidth of a copy (read and write counted) over the weights that a token reads; keys and values "
        "are left out of it. Median over rounds, ours and `generate` by turns, both greedy, the same prompt and count."
    )
    return Table("Decoding, tokens a second after the first", columns, rows, note)


def _conditions(device: str, precision: str, compiled: bool) -> str:
    where = (
        f"{torch.cuda.get_device_name(device)}, each step a CUDA graph{' of compiled kernels' if compiled else ''}"
        if device.startswith("cuda")
        else f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    return (
        f"Random weights of the published architectures in {precision}; {where}. A query of {QUERY_S:g} s of noise, "
        f"{TOKENS_A_WORD} tokens a word. Steps run one after the other; nothing is overlapped. What is omni-mini's own "
        "runs on the processor with the shipped weights."
    )
