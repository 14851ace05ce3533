"""Published architectures with random weights, from the configurations kept in `omni/assets/models`: speed without a download.

A model is built on the `meta` device and its weights are drawn where they stay: no more memory is needed than they take.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from omni.errors import ModelError
from omni.sizes import published

#: Spread of the weights that a model's own initialisation leaves out.
SPREAD = 0.02
_ENCODER: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
#: Class -> what `tiny` changes: layers and widths. Everything that says how sound and tokens are counted stays.
TINY: dict[str, dict[str, Any]] = {
    "Qwen2ForCausalLM": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_window_layers": 2,
    },
    "WhisperForConditionalGeneration": {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    },
    "HubertForSequenceClassification": {**_ENCODER, "classifier_proj_size": 16},
    "HubertModel": _ENCODER,
    "WavLMModel": _ENCODER,
    "VitsModel": {
        "hidden_size": 16, "num_hidden_layers": 1, "ffn_dim": 24, "flow_size": 16, "upsample_initial_channel": 16,
        "posterior_encoder_num_wavenet_layers": 2, "prior_encoder_num_wavenet_layers": 2, "prior_encoder_num_flows": 2,
        "duration_predictor_filter_channels": 16,
    },
    "MimiModel": {"num_hidden_layers": 2, "num_filters": 8},
    "HiggsAudioV2ForConditionalGeneration": {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16,
    },
    "HiggsAudioV2TokenizerModel": {
        "codebook_dim": 8,
        "acoustic_model_config": {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "hidden_size": 8},
        "semantic_model_config": _ENCODER | {"hidden_size": 16},
    },
}  # fmt: skip


def random_model(
    name: str, dtype: torch.dtype = torch.float32, device: str = "cpu", tiny: bool = False, seed: int = 0
) -> Any:
    """The model that was published as `name`, in evaluation mode, its weights drawn by `seed`, nothing to be trained.

    `tiny` keeps the architecture and takes small layers: for tests. ModelError for a model whose configuration is not kept.
    """
    found = published(name)
    if found is None:
        raise ModelError(
            f"the configuration of {name} is not kept in omni/assets/models, so it cannot be built with random weights; "
            "name a model that `omni info --presets` gives a size for"
        )
    values = found["config"]
    if tiny:
        if found["class"] not in TINY:
            raise ModelError(f"{name} has no tiny size; those are: {', '.join(sorted(TINY))}")
        values = _changed(values, TINY[found["class"]])
    cls = getattr(transformers, found["class"])
    with _default_dtype(dtype), torch.device("meta"):
        model: PreTrainedModel = cls(cls.config_class(**values))
    model.tie_weights()
    _allocate(model, device)
    on_gpu = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(on_gpu), torch.no_grad():
        torch.manual_seed(seed)
        model.initialize_weights()
        _fill(model)
    return model.eval()


def _changed(values: dict[str, Any], by: dict[str, Any]) -> dict[str, Any]:
    """`values` with those of `by` in their places, in nested ones too."""
    nested = {k: _changed(values[k], v) for k, v in by.items() if isinstance(v, dict)}
    return {**values, **by, **nested}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Weights are made in `dtype`; what a model asks for in float32, as its rotary frequencies, stays in float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _allocate(model: nn.Module, device: str) -> None:
    """Memory for each tensor of a model on `meta`, shared ones once: not a number where numbers are real, else 0."""
    made: dict[int, tuple[Tensor, Tensor]] = {}  # the old one is kept, so that its id stays its own
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, old in held.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = torch.full_like(old, float("nan") if old.is_floating_point() else 0, device=device)
                    frozen = nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
                    made[id(old)] = (old, frozen)
                held[name] = made[id(old)][1]  # type: ignore[assignment]


def _fill(model: nn.Module) -> None:
    """Draw what the model's own initialisation has left out: parts of normalised weights, and codebooks, which it zeroes."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        if name.endswith("original0"):  # the length of a normalised weight
            tensor.fill_(1.0)
        elif bool(tensor.flatten()[0].isnan()) or (_is_codebook(name, tensor) and not bool(tensor.any())):
            tensor.normal_(0.0, SPREAD)


def _is_codebook(name: str, tensor: Tensor) -> bool:
    return tensor.ndim > 1 and name.rsplit(".", 1)[-1].startswith("embed")
