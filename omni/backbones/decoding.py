"""Decoding over keys and values of a fixed size: nothing is allocated between tokens, so that a GPU can replay one step.

A step of a small batch is so short on a GPU that starting its few hundred kernels takes longer than running them; a CUDA graph
starts them all at once. It needs the same tensors at the same addresses each time, hence the static cache, and no question
from the processor to the GPU in between, hence the mask and positions made here.
Shapes: L tokens, S slots of the cache, H width, V vocabulary, C codebooks, T frames of an encoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache, PreTrainedModel, StaticCache

from omni.errors import ModelError

#: Steps that are run before one is captured: libraries choose their kernels and take their memory in the first.
WARM_UPS = 3
#: Slots come in multiples of so many: attention kernels want an aligned mask. What is too many is never looked at.
SLOTS = 64


class StaticDecoder:
    """A causal language model, one sequence at a time: `prefill` what is given, then `step` token by token."""

    #: Weights that a step does not read: parameters whose names match are left out of `bytes_a_step`.
    UNREAD = r"embed_tokens"

    def __init__(self, model: PreTrainedModel, longest: int, graph: bool | None = None, compiled: bool = False) -> None:
        """`longest`: tokens of a prompt and all that follows it.

        `graph` replays a step as a CUDA graph (None: where the model is on a GPU); `compiled` has torch.compile fuse its
        kernels first, which takes a minute. ModelError for a graph without a GPU, or for a model that attends over a window.
        """
        self.model, self.longest, self.length = model.eval(), longest, 0
        device = model.device
        on_gpu = device.type == "cuda"
        self._wants_graph = on_gpu if graph is None else graph
        if self._wants_graph and not on_gpu:
            raise ModelError(f"a CUDA graph needs a model on a GPU, and this one is on {device}; leave out `graph`")
        room = -(-longest // SLOTS) * SLOTS
        self._slots = torch.arange(room, device=device)
        self._position = torch.zeros(1, 1, dtype=torch.long, device=device)
        self._token = torch.zeros(self._token_shape(), dtype=torch.long, device=device)
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._cache = StaticCache(config=model.config, max_cache_len=room)
        if any(self._cache.is_sliding):
            raise ModelError("this model attends over a sliding window; decode it with transformers' own generate")
        self._compute = torch.compile(self._next, dynamic=False) if compiled else self._next

    def reset(self) -> None:
        """Forget the sequence; memory and graph stay."""
        self._rewind(0)

    @torch.no_grad()
    def prefill(self, ids: Sequence[int] | Tensor | None = None, embeddings: Tensor | None = None) -> Tensor:
        """Read ids [L] or [1, L], or embeddings [1, L, H]. Returns float32 logits [1, V] of what follows the last.

        ValueError unless exactly one is given, and for more tokens than fit.
        """
        if (ids is None) == (embeddings is None):
            raise ValueError("give either ids or embeddings")
        device = self._slots.device
        if embeddings is not None:
            given, count = {"inputs_embeds": embeddings}, embeddings.shape[1]
        else:
            row = torch.as_tensor(ids, device=device).view(1, -1)
            given, count = {"input_ids": row}, row.shape[1]
        self._make_room(count)
        positions = self._slots[self.length : self.length + count][None]
        logits = self._forward(given, positions, self._mask(positions)).float()
        self._rewind(self.length + count)
        if self._logits is None:
            self._logits = torch.empty_like(logits)
        return logits

    @torch.no_grad()
    def step(self, token: int | Tensor) -> Tensor:
        """Read one token (a tensor stays on its device). Returns float32 logits [1, V], overwritten by the next step.

        ValueError before a `prefill`, and when the cache is full.
        """
        if self._logits is None:
            raise ValueError("nothing has been read yet; prefill a prompt first")
        self._make_room(1)
        if isinstance(token, Tensor):
            self._token.copy_(token.view(self._token.shape))
        else:
            self._token.fill_(token)
        if self._wants_graph and self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run()
        self.length += 1
        return self._logits

    def bytes_a_step(self) -> int:
        """Bytes of the weights that one step reads, shared ones once; keys and values come on top."""
        head = self.model.get_output_embeddings()
        needed = head.weight if head is not None else None
        return sum(
            p.numel() * p.element_size()
            for name, p in self._read().named_parameters()
            if p is needed or not re.search(self.UNREAD, name)
        )

    # -- one step ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """One step over the preallocated tensors; all that a graph captures."""
        assert self._logits is not None
        self._logits.copy_(self._compute())
        self._position.add_(1)

    def _next(self) -> Tensor:
        return self._forward(self._given(), self._position, self._mask(self._position))

    def _capture(self) -> None:
        """Record one step. What the runs before it write to this token's slots, the first replay overwrites."""
        here = self.length
        with torch.cuda.device(self._slots.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UPS):
                    self._run()
                    self._rewind(here)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._run()
        self._rewind(here)
        self._graph = graph

    def _mask(self, positions: Tensor) -> Tensor:
        """What each position [1, L] may look at, [1, 1, L, S]: itself and all before it."""
        return (self._slots[None, :] <= positions[0, :, None])[None, None]

    def _make_room(self, count: int) -> None:
        if count < 1 or self.length + count > self.longest:
            raise ValueError(
                f"{count} tokens after {self.length} do not fit {self.longest}; reset, or give more with `longest`"
            )

    @torch.no_grad()
    def _rewind(self, length: int) -> None:
        """Have read `length` tokens. The cache counts for itself, in a tensor a layer."""
        self.length = length
        self._position.fill_(length)
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(length)  # type: ignore[union-attr]

    # -- what differs between models -----------------------------------------------------------------------------

    def _token_shape(self) -> tuple[int, ...]:
        return (1, 1)

    def _given(self) -> dict[str, Tensor]:
        return {"input_ids": self._token}

    def _read(self) -> nn.Module:
        return self.model

    def _forward(self, given: dict[str, Tensor], positions: Tensor, mask: Tensor) -> Tensor:
        """Logits [1, V] after the last of what is given."""
        out = self.model(
            **given, position_ids=positions, attention_mask=mask, past_key_values=self._cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        return out.logits[:, -1]


class StaticStates(StaticDecoder):
    """A language model whose `state` [1, H] of the last token is kept: what a voice reads that follows the words."""

    state: Tensor | None = None

    def _forward(self, given: dict[str, Tensor], positions: Tensor, mask: Tensor) -> Tensor:
        inner: Any = self.model
        out = inner.get_decoder()(
            **given, position_ids=positions, attention_mask=mask, past_key_values=self._cache, use_cache=True
        )
        last = out.last_hidden_state[:, -1]
        if self.state is None:
            self.state = torch.empty_like(last)
        self.state.copy_(last)
        return inner.get_output_embeddings()(last)


class StaticCodes(StaticDecoder):
    """Higgs Audio v2: reads words and writes codes [C], one of each codebook, a step. Logits are [1, C * codebook's size]."""

    UNREAD = r"embed_tokens|embed_audio_tokens|\.mlp\.|\.input_layernorm|\.post_attention_layernorm"

    def _token_shape(self) -> tuple[int, ...]:
        return (1, 1, int(self.model.config.num_codebooks))

    def _given(self) -> dict[str, Tensor]:
        return {"audio_input_ids": self._token}


class StaticWhisper(StaticDecoder):
    """Whisper's decoder. `listen` to what the encoder made before `prefill`; a new query is a new `listen`."""

    #: The encoder's states pass through their projections once a query.
    UNREAD = r"embed_positions|encoder_attn\.[kv]_proj"

    def __init__(self, model: PreTrainedModel, longest: int, graph: bool | None = None, compiled: bool = False) -> None:
        """See `StaticDecoder`."""
        super().__init__(model, longest, graph, compiled)
        config: Any = model.config
        self._states = torch.zeros(
            1, config.max_source_positions, config.d_model, dtype=model.dtype, device=model.device
        )
        self._heard = StaticCache(config=config, max_cache_len=config.max_source_positions)
        self._both = EncoderDecoderCache(self._cache, self._heard)

    def listen(self, states: Tensor) -> None:
        """Forget what was heard and written, and take the encoder's states [1, T, H]; T is always that of a whole window."""
        self.reset()
        self._states.copy_(states)
        for number, layer in enumerate(self._heard.layers):
            layer.cumulative_length.fill_(0)  # type: ignore[union-attr]
            self._both.is_updated[number] = False

    def _read(self) -> nn.Module:
        return self.model.model.decoder  # type: ignore[union-attr, return-value]

    def _forward(self, given: dict[str, Tensor], positions: Tensor, mask: Tensor) -> Tensor:
        inner: Any = self.model
        out = inner.model.decoder(
            **given, position_ids=positions, attention_mask=mask, encoder_hidden_states=self._states,
            past_key_values=self._both, use_cache=True,
        )  # fmt: skip
        return inner.proj_out(out.last_hidden_state[:, -1])
