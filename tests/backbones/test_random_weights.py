"""Published architectures with random weights: as large as the published ones, finite, and the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from omni.backbones.random_weights import TINY, random_model
from omni.errors import ModelError
from omni.preset import load_preset, names
from omni.sizes import parameters, published

MODELS = sorted({spec.model for name in names() for _, spec in load_preset(name).models()})
CHAT = "Qwen/Qwen2.5-1.5B-Instruct"


def test_a_model_is_as_large_as_the_published_one() -> None:
    voice = random_model("facebook/mms-tts-eng")
    counted = sum(p.numel() for p in voice.parameters()) + sum(b.numel() for b in voice.buffers() if b.ndim > 1)
    assert counted == parameters("facebook/mms-tts-eng")
    with torch.no_grad():
        sound = voice(torch.arange(30)[None]).waveform
    assert sound.isfinite().all()
    assert sound.std() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_filled(name: str, dtype: torch.dtype) -> None:
    model = random_model(name, dtype, tiny=True)
    assert not model.training
    kept = {torch.float32} if name == "kyutai/mimi" else set()  # its quantiser is always in float32
    assert {p.dtype for p in model.parameters()} - kept == {dtype} - kept
    assert not any(p.requires_grad for p in model.parameters())
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.device.type == "cpu", key
        assert not tensor.is_floating_point() or tensor.isfinite().all(), key
        zero_by_design = tensor.ndim < 2 or key.endswith(("translate", "log_scale"))
        assert zero_by_design or tensor.any(), key


def test_frequencies_are_those_of_the_model_and_stay_in_float32() -> None:
    model = random_model(CHAT, torch.bfloat16, tiny=True)
    found = model.model.rotary_emb.inv_freq
    assert found.dtype == torch.float32
    assert torch.equal(found, Qwen2RotaryEmbedding(model.config).inv_freq)
    with torch.no_grad():
        assert model(torch.arange(20)[None]).logits.isfinite().all()


def test_shared_weights_stay_one() -> None:
    shared, apart = random_model(CHAT, tiny=True), random_model("Qwen/Qwen2.5-7B-Instruct", tiny=True)
    assert shared.lm_head.weight is shared.model.embed_tokens.weight
    assert apart.lm_head.weight is not apart.model.embed_tokens.weight


def test_codes_make_sounds_that_differ() -> None:
    codec = random_model("bosonai/higgs-audio-v2-tokenizer", tiny=True)
    with torch.no_grad():
        one, other = (codec.decode(torch.full((1, 8, 5), code)).audio_values for code in (3, 900))
    assert one.isfinite().all()
    assert not torch.equal(one, other)


def test_the_seed_decides() -> None:
    before = torch.get_rng_state()
    one, same, other = (random_model(CHAT, tiny=True, seed=seed).lm_head.weight for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_tiny_changes_what_it_names_and_nothing_else() -> None:
    small = random_model("bosonai/higgs-audio-v2-tokenizer", tiny=True).config
    kept = (published("bosonai/higgs-audio-v2-tokenizer") or {})["config"]
    assert small.semantic_model_config.num_hidden_layers == 2
    assert small.acoustic_model_config.upsampling_ratios == kept["acoustic_model_config"]["upsampling_ratios"]
    assert small.sample_rate == kept["sample_rate"]


def test_a_model_that_is_not_kept_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"configuration of org/none is not kept .*omni info --presets"):
        random_model("org/none")
    monkeypatch.delitem(TINY, "MimiModel")
    with pytest.raises(ModelError, match=r"kyutai/mimi has no tiny size; those are: Higgs"):
        random_model("kyutai/mimi", tiny=True)
