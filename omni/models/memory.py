"""What a language model has read so far, for one row or several, ready to be read on from.

Shapes: B rows, J tokens read, V vocabulary, D width, H heads of the copy head, S their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache


@dataclass
class Memory:
    """What was read so far: the key-value cache, ids [B, J], the copy head's keys [B, J, H, S], the last embedding.

    `padding` [B]: how many of the J places stand empty before a row's first token; None: none in any row.
    """

    cache: DynamicCache
    ids: Tensor
    keys: Tensor | None = None
    last: Tensor | None = None
    padding: Tensor | None = None

    def repeated(self, count: int) -> Memory:
        """A copy of this memory with each row `count` times in succession."""
        cache = DynamicCache()
        for place, layer in enumerate(self.cache.layers):
            keys, values = layer.keys.repeat_interleave(count, 0), layer.values.repeat_interleave(count, 0)  # type: ignore[union-attr]
            cache.update(keys, values, place)
        rest = (self.ids, self.keys, self.last, self.padding)
        return Memory(cache, *(x if x is None else x.repeat_interleave(count, 0) for x in rest))  # type: ignore[arg-type]

    @staticmethod
    def joined(memories: Sequence[Memory]) -> Memory:
        """Memories of one row each, none padded, as the rows of one; the shorter ones are padded on the left."""
        if len(memories) == 1:
            return memories[0]
        longest = max(m.ids.shape[1] for m in memories)
        pads = [longest - m.ids.shape[1] for m in memories]
        cache = DynamicCache()
        for place, layers in enumerate(zip(*(m.cache.layers for m in memories), strict=True)):
            read = torch.cat([F.pad(layer.keys, (0, 0, pad, 0)) for layer, pad in zip(layers, pads)])
            values = torch.cat([F.pad(layer.values, (0, 0, pad, 0)) for layer, pad in zip(layers, pads)])
            cache.update(read, values, place)
        ids = torch.cat([F.pad(m.ids, (pad, 0)) for m, pad in zip(memories, pads)])
        joined = Memory(cache, ids, padding=torch.tensor(pads))
        if memories[0].keys is not None:
            joined.keys = torch.cat([F.pad(m.keys, (0, 0, 0, 0, pad, 0)) for m, pad in zip(memories, pads)])  # type: ignore[arg-type]
            joined.last = torch.cat([m.last for m in memories])  # type: ignore[misc]
        return joined

    def places(self, new: int) -> dict[str, Tensor]:
        """What a transformers model must be told to read `new` more tokens: mask [B, J + new] and positions [B, new]."""
        if self.padding is None:
            return {}
        read = self.ids.shape[1]
        mask = torch.arange(read + new)[None] >= self.padding[:, None]
        return {"attention_mask": mask.long(), "position_ids": torch.arange(read, read + new) - self.padding[:, None]}
