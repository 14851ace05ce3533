"""The speech decoder of the full-size presets: reads the language model as it writes, and writes a codec's codes.

Token embedding and hidden state of the language model are mixed by a sigmoid gate, the emotion enters by AdaLN on that mixture
(Empathy Omni, arXiv 2508.18655: g = sigmoid(W [h; e]), h g + e (1 - g); gamma and beta zero at first, so that AdaLN begins as a
plain norm). R text tokens are read, W frames written, in turn; once the text has ended it writes until the end mark. The first
codebook is the main transformer's, the others follow from a depth transformer within each frame (Moshi, arXiv 2410.00037).
The paper has one stream of semantic tokens and a flow-matching model instead; Mimi's codes need no further model.
Shapes: B batch, L text tokens, T frames, C codebooks, V codes, H language-model width, E emotion vector, D width,
S = L + T + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaModel

from omni.models.voice_blocks import AdaptiveNorm
from omni.nn.sampling import nucleus


@dataclass(frozen=True)
class CodeDecoderConfig:
    """Sizes. `read` and `write` are R tokens and W frames; 80 ms a frame with Mimi."""

    llm_width: int
    emotion: int
    width: int = 1024
    layers: int = 6
    heads: int = 16
    feedforward: int = 4096
    depth_width: int = 512
    depth_layers: int = 4
    depth_heads: int = 8
    depth_feedforward: int = 1536
    codebooks: int = 8
    codes: int = 2048
    read: int = 5
    write: int = 12


def schedule(tokens: int, frames: int, read: int, write: int) -> list[int]:
    """The order in which L text tokens (0 to L - 1) and frames (L to L + frames - 1) stand in one sequence.

    >>> schedule(5, 4, 2, 1)
    [0, 1, 5, 2, 3, 6, 4, 7, 8]
    """
    order: list[int] = []
    text, written = 0, 0
    while text < tokens or written < frames:
        order += range(text, min(tokens, text + read))
        text = min(tokens, text + read)
        count = frames - written if text == tokens else min(write, frames - written)
        order += range(tokens + written, tokens + written + count)
        written += count
    return order


def _transformer(width: int, layers: int, heads: int, feedforward: int) -> LlamaModel:
    return LlamaModel(
        LlamaConfig(
            vocab_size=1, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=heads, intermediate_size=feedforward, max_position_embeddings=8192,
            attn_implementation="sdpa",  # type: ignore[call-arg]
            pad_token_id=None, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


class CodeDecoder(nn.Module):
    """Text with the language model's states in, frames of codes out."""

    def __init__(self, config: CodeDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.hidden = nn.Linear(config.llm_width, config.width)
        self.token = nn.Linear(config.llm_width, config.width)
        self.gate = nn.Linear(2 * config.width, config.width)
        self.adapt = AdaptiveNorm(config.width, config.emotion)
        self.begin = nn.Parameter(torch.zeros(config.width))
        self.codes = nn.Embedding(config.codebooks * config.codes, config.width)
        self.main = _transformer(config.width, config.layers, config.heads, config.feedforward)
        self.head = nn.Linear(config.width, config.codes + 1)  # the last one is the end
        self.enter = nn.Linear(config.width, config.depth_width)
        self.depth_codes = nn.Embedding(config.codebooks * config.codes, config.depth_width)
        self.depth = _transformer(config.depth_width, config.depth_layers, config.depth_heads, config.depth_feedforward)
        self.depth_heads = nn.Parameter(torch.empty(config.codebooks - 1, config.depth_width, config.codes))
        nn.init.normal_(self.depth_heads, std=config.depth_width**-0.5)
        self.register_buffer("offsets", torch.arange(config.codebooks) * config.codes, persistent=False)

    offsets: Tensor

    @property
    def end(self) -> int:
        """What the first codebook says when the reply is over."""
        return self.config.codes

    # -- what is read --------------------------------------------------------------------------------------------

    def text(self, embeddings: Tensor, states: Tensor, emotion: Tensor) -> Tensor:
        """Token embeddings and hidden states [B, L, H], emotion [B, E] -> what the main transformer reads [B, L, D]."""
        h, e = self.hidden(states), self.token(embeddings)
        g = torch.sigmoid(self.gate(torch.cat([h, e], dim=-1)))
        return self.adapt(h * g + e * (1 - g), emotion)

    def frames(self, codes: Tensor) -> Tensor:
        """Codes [B, C, T] -> what stands for each frame when the next is written [B, T, D]."""
        return self.codes(codes + self.offsets[:, None]).sum(1)

    # -- training ------------------------------------------------------------------------------------------------

    def forward(
        self, embeddings: Tensor, states: Tensor, emotion: Tensor, codes: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the first codebook [B, T + 1, V + 1] and of the others [B, T, C - 1, V], the truth before them given.

        order [B, S]: places of the L tokens and T + 1 frames in the sequence (`schedule`); S itself is the place of nothing,
        which fills rows that are shorter.
        """
        read = self.text(embeddings, states, emotion)
        begin = self.begin.expand(len(codes), 1, -1)
        both = torch.cat([read, begin, self.frames(codes), torch.zeros_like(begin)], dim=1)
        index = order[..., None].expand(-1, -1, both.shape[-1])
        out = self.main(inputs_embeds=both.gather(1, index), use_cache=False).last_hidden_state
        back = torch.zeros_like(both).scatter(1, index, out)[:, read.shape[1] : -1]
        return self.head(back), self._others(back[:, :-1], codes)

    def _others(self, states: Tensor, codes: Tensor) -> Tensor:
        """Logits [B, T, C - 1, V] of the codebooks after the first, from each frame's state [B, T, D] and true codes."""
        batch, count = states.shape[:2]
        before = self.depth_codes(codes[:, :-1] + self.offsets[:-1, None]).permute(0, 2, 1, 3)  # [B, T, C - 1, depth]
        x = before + F.pad(self.enter(states)[:, :, None], (0, 0, 0, before.shape[2] - 1))
        out = self.depth(inputs_embeds=x.flatten(0, 1), use_cache=False).last_hidden_state
        return torch.einsum("ncd,cdv->ncv", out, self.depth_heads).unflatten(0, (batch, count))

    def loss(
        self, embeddings: Tensor, states: Tensor, emotion: Tensor, codes: Tensor, tokens: Tensor, frames: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy of all codebooks and of the end. tokens, frames [B]: how many of L and T each row has."""
        length, most = embeddings.shape[1], codes.shape[2]
        order = torch.full((len(codes), length + most + 1), length + most + 1, device=codes.device)
        for row, (count, written) in enumerate(zip(tokens.tolist(), frames.tolist(), strict=True)):
            places = [
                p if p < count else p - count + length
                for p in schedule(count, written + 1, self.config.read, self.config.write)
            ]
            order[row, : len(places)] = torch.tensor(places, device=codes.device)
        first, others = self(embeddings, states, emotion, codes, order)
        there = torch.arange(most, device=codes.device)[None] < frames[:, None]
        targets = F.pad(codes[:, 0].masked_fill(~there, -100), (0, 1), value=-100)
        targets[torch.arange(len(codes)), frames] = self.end
        head = F.cross_entropy(first.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)
        rest = codes[:, 1:].masked_fill(~there[:, None], -100).transpose(1, 2)
        depth = F.cross_entropy(others.flatten(0, 2).float(), rest.flatten(), ignore_index=-100)
        share = 1 / self.config.codebooks
        parts = {"first": float(head.detach()), "others": float(depth.detach())}
        return share * head + (1 - share) * depth, parts

    # -- writing -------------------------------------------------------------------------------------------------

    def stream(self, emotion: Tensor, seed: int = 0, temperature: float = 0.8, top_p: float = 0.95) -> CodeStream:
        """A reply that is written as its text comes; `emotion` [1, E]."""
        return CodeStream(self, emotion, seed, temperature, top_p)


class CodeStream:
    """Writes one reply. Give it the text as the language model writes it; it hands back frames as soon as it may."""

    def __init__(self, decoder: CodeDecoder, emotion: Tensor, seed: int, temperature: float, top_p: float) -> None:
        self.decoder, self.emotion = decoder, emotion
        self.temperature, self.top_p = temperature, top_p
        self.generator = torch.Generator().manual_seed(seed)
        self.cache = DynamicCache(config=decoder.main.config)
        self.waiting: list[Tensor] = []  # text [1, 1, D] that was not read yet
        self.last: Tensor = decoder.begin.expand(1, 1, -1)
        self.done = False

    @torch.inference_mode()
    def push(self, embeddings: Tensor, states: Tensor) -> Iterator[list[int]]:
        """More text [1, n, H]: the frames, C codes each, that may be written now, one by one."""
        if embeddings.shape[1]:
            self.waiting += self.decoder.text(embeddings, states, self.emotion).split(1, dim=1)
        # the last tokens wait for `finish`: after them it writes until the end
        while len(self.waiting) > self.decoder.config.read:
            self._read(self.decoder.config.read)
            yield from self._write(self.decoder.config.write)

    @torch.inference_mode()
    def finish(self, most: int) -> Iterator[list[int]]:
        """The rest, after the last of the text: at most `most` frames."""
        if self.waiting:
            self._read(len(self.waiting))
        yield from self._write(most)

    def _read(self, count: int) -> None:
        self._step(torch.cat(self.waiting[:count], dim=1))
        self.waiting = self.waiting[count:]

    def _step(self, x: Tensor) -> Tensor:
        out = self.decoder.main(inputs_embeds=x, past_key_values=self.cache, use_cache=True)
        return out.last_hidden_state[:, -1]

    def _write(self, count: int) -> Iterator[list[int]]:
        for _ in range(count):
            if self.done:
                return
            state = self._step(self.last)
            first = self._draw(self.decoder.head(state))
            if first == self.decoder.end:
                self.done = True
                return
            frame = self._frame(state, first)
            self.last = self.decoder.frames(torch.tensor(frame, device=state.device)[None, :, None])
            yield frame

    def _frame(self, state: Tensor, first: int) -> list[int]:
        """All codes of a frame from the main transformer's state [1, D] and its first code."""
        decoder, found = self.decoder, [first]
        cache = DynamicCache(config=decoder.depth.config)
        x = decoder.enter(state)[:, None]
        for book in range(decoder.config.codebooks - 1):
            code = torch.tensor([[found[-1]]], device=state.device) + decoder.offsets[book]
            x = decoder.depth_codes(code) + (x if book == 0 else 0)
            out = decoder.depth(inputs_embeds=x, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
            found.append(self._draw(out @ decoder.depth_heads[book]))
        return found

    def _draw(self, logits: Tensor) -> int:
        return int(nucleus(logits.float().cpu(), self.temperature, self.top_p, self.generator))
