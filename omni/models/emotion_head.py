"""The emotion of a reply, read off the language model as it begins to answer.

Shapes: B batch, L reply tokens, H language-model width, E emotion vector.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

#: The head reads so many tokens; as soon as they are there the reply can be voiced.
FIRST = 5


class EmotionHead(nn.Module):
    """One vector a reply from the mean of its first states, in the sizes of Empathy Omni's release (arXiv 2508.18655).

    The paper has a vector for each token, aligned with the reference sound by dynamic time warping; one vector is there before
    the first sound is made, and needs no alignment.
    """

    def __init__(self, llm_width: int, emotion: int) -> None:
        super().__init__()
        self.emotion = emotion
        self.squeeze = nn.Linear(llm_width, llm_width // 2)
        self.dropout = nn.Dropout(0.1)
        self.project = nn.Linear(llm_width // 2, emotion)

    def forward(self, states: Tensor) -> Tensor:
        """States [B, L, H] of the reply's tokens, as they are read -> [B, E]. The rows are whole or at least FIRST long."""
        mean = states[:, :FIRST].to(self.squeeze.weight.dtype).mean(1)
        return self.project(self.dropout(F.relu(self.squeeze(mean))))
