"""Decoding over a static cache gives the logits of the plain model, token by token, whatever was read before."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM

from omni.backbones import decoding
from omni.backbones.decoding import StaticCodes, StaticDecoder, StaticWhisper
from omni.backbones.random_weights import random_model
from omni.errors import ModelError

CLOSE = {"atol": 1e-3, "rtol": 1e-3}


def louder(name: str) -> Any:
    """A tiny model whose logits are far from uniform."""
    model = random_model(name, tiny=True)
    for weight in model.parameters():
        weight.mul_(4.0)
    return model


@pytest.fixture(scope="module")
def chat() -> Any:
    return louder("Qwen/Qwen2.5-1.5B-Instruct")


@pytest.fixture
def prompt() -> Tensor:
    return torch.randint(0, 2000, (1, 20), generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def plain(model: Any, prompt: Tensor, count: int) -> tuple[list[int], list[Tensor]]:
    """Greedy tokens and logits over a growing cache."""
    cache, given, ids, logits = DynamicCache(config=model.config), prompt, list[int](), list[Tensor]()
    for _ in range(count):
        logits.append(model(given, past_key_values=cache, use_cache=True).logits[:, -1].float())
        ids.append(int(logits[-1].argmax()))
        given = torch.tensor([[ids[-1]]])
    return ids, logits


def ours(decoder: StaticDecoder, first: Tensor, ids: list[int]) -> list[Tensor]:
    return [first, *(decoder.step(token).clone() for token in ids[:-1])]


def assert_same(found: list[Tensor], wanted: list[Tensor]) -> None:
    assert wanted[0].std() > 0.5
    torch.testing.assert_close(torch.cat(found), torch.cat(wanted), **CLOSE)


def test_tokens_and_embeddings_are_read_as_by_the_plain_model(chat: Any, prompt: Tensor) -> None:
    ids, wanted = plain(chat, prompt, 24)
    decoder = StaticDecoder(chat, 64)
    assert_same(ours(decoder, decoder.prefill(prompt), ids), wanted)
    assert decoder.length == prompt.shape[1] + len(ids) - 1
    decoder.reset()
    with torch.no_grad():
        embeddings = chat.get_input_embeddings()(prompt)
    assert_same(ours(decoder, decoder.prefill(embeddings=embeddings), ids), wanted)


def test_a_prompt_may_come_in_parts_and_after_another_sequence(chat: Any, prompt: Tensor) -> None:
    ids, wanted = plain(chat, prompt, 6)
    decoder = StaticDecoder(chat, 40)
    decoder.prefill(prompt.flip(1))
    decoder.step(5)
    decoder.reset()
    decoder.prefill(prompt[0, :7].tolist())
    assert_same(ours(decoder, decoder.prefill(prompt[:, 7:]), ids), wanted)


def test_a_token_may_be_a_tensor(chat: Any, prompt: Tensor) -> None:
    decoder = StaticDecoder(chat, 40)
    decoder.prefill(prompt)
    one = decoder.step(7).clone()
    decoder.reset()
    decoder.prefill(prompt)
    assert torch.equal(decoder.step(torch.tensor([7])), one)


def test_compiled_steps_are_the_same(chat: Any, prompt: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # traced, not fused
    ids, wanted = plain(chat, prompt, 6)
    decoder = StaticDecoder(chat, 40, compiled=True)
    assert_same(ours(decoder, decoder.prefill(prompt), ids), wanted)


def test_warming_up_and_capturing_leave_no_trace(chat: Any, prompt: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for CUDA: what is captured runs when it is replayed."""
    decoder, runs = StaticDecoder(chat, 40), []

    class Graph:
        def replay(self) -> None:
            decoder._run()
            runs.append(decoder.length)

    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(decoding.torch.cuda, name, lambda *_: contextlib.nullcontext())
    side = type("Side", (), {"wait_stream": lambda self, other: None})
    monkeypatch.setattr(decoding.torch.cuda, "Stream", side)
    monkeypatch.setattr(decoding.torch.cuda, "current_stream", side)
    monkeypatch.setattr(decoding.torch.cuda, "CUDAGraph", Graph)
    decoder._wants_graph = True
    ids, wanted = plain(chat, prompt, 8)
    assert_same(ours(decoder, decoder.prefill(prompt), ids), wanted)
    assert runs == list(range(20, 27))


@torch.no_grad()
def test_whisper_writes_what_it_heard_in_each_query() -> None:
    model = louder("openai/whisper-small.en")
    decoder = StaticWhisper(model, 24)
    generator = torch.Generator().manual_seed(3)
    heard = []
    for _ in range(2):
        states = model.model.encoder(torch.randn(1, 80, 3000, generator=generator)).last_hidden_state
        ids = [50257, 50362]
        decoder.listen(states)
        found = decoder.prefill(ids)
        for _ in range(8):
            whole = model(encoder_outputs=(states,), decoder_input_ids=torch.tensor([ids]), use_cache=False)
            torch.testing.assert_close(found, whole.logits[:, -1], **CLOSE)
            ids.append(int(found.argmax()))
            found = decoder.step(ids[-1])
        heard.append(found.clone())
    assert not torch.allclose(*heard)
    inner = model.model.decoder
    crossed = sum(
        p.numel() for layer in inner.layers for a in (layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        for p in a.parameters()
    )  # fmt: skip
    places = inner.embed_positions.weight.numel()
    assert decoder.bytes_a_step() == 4 * (sum(p.numel() for p in inner.parameters()) - crossed - places)


@torch.no_grad()
def test_codes_are_written_a_row_a_step() -> None:
    model = louder("bosonai/higgs-audio-v2-generation-3B-base")
    decoder, cache = StaticCodes(model, 48), DynamicCache(config=model.config)
    ids = torch.tensor([[*range(10, 40), model.config.audio_bos_token_id]])
    wanted = model(input_ids=ids, past_key_values=cache).logits[:, -1]
    found = decoder.prefill(ids)
    for _ in range(6):
        torch.testing.assert_close(found, wanted, **CLOSE)
        codes = wanted.view(model.config.num_codebooks, -1).argmax(-1)
        found = decoder.step(codes)
        wanted = model(audio_input_ids=codes[None, None], past_key_values=cache).logits[:, -1]
    layer = model.model.layers[0]
    read = sum(
        p.numel() for m in (layer.self_attn, layer.audio_mlp, layer.audio_input_layernorm, layer.audio_post_attention_layernorm)
        for p in m.parameters()
    )  # fmt: skip
    shared = model.audio_lm_head.weight.numel() + model.model.norm.weight.numel()
    assert decoder.bytes_a_step() == 4 * (len(model.model.layers) * read + shared)


def test_a_step_reads_the_embedding_only_where_it_is_the_head(chat: Any) -> None:
    apart = random_model("Qwen/Qwen2.5-7B-Instruct", torch.bfloat16, tiny=True)
    every = sum(p.numel() for p in apart.parameters())
    assert StaticDecoder(apart, 8).bytes_a_step() == 2 * (every - apart.model.embed_tokens.weight.numel())
    assert StaticDecoder(chat, 8).bytes_a_step() == 4 * sum(p.numel() for p in chat.parameters())


def test_mistakes_are_named(chat: Any, prompt: Tensor) -> None:
    decoder = StaticDecoder(chat, 21)
    with pytest.raises(ValueError, match="prefill a prompt first"):
        decoder.step(1)
    with pytest.raises(ValueError, match="either ids or embeddings"):
        decoder.prefill()
    decoder.prefill(prompt)
    decoder.step(1)
    with pytest.raises(ValueError, match="1 tokens after 21 do not fit 21"):
        decoder.step(1)
    with pytest.raises(ModelError, match="needs a model on a GPU"):
        StaticDecoder(chat, 8, graph=True)
    config = Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, use_sliding_window=True, sliding_window=4, max_window_layers=0,
    )  # fmt: skip
    with pytest.raises(ModelError, match="sliding window"):
        StaticDecoder(Qwen2ForCausalLM(config), 8)
