"""A tiny Higgs Audio v2: its language model and its codec, in two folders as the published ones are."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DacFeatureExtractor,
    HiggsAudioV2Config,
    HiggsAudioV2ForConditionalGeneration,
    HiggsAudioV2TokenizerConfig,
    HiggsAudioV2TokenizerModel,
    PreTrainedTokenizerFast,
)

MARKS = [
    "<|pad|>", "<|eot|>", "<|AUDIO_OUT|>", "<|audio_out_bos|>", "<|audio_eos|>", "<|reserved_special_token_6|>",
    "<|system|>", "<|scene|>", "<|user|>", "<|assistant|>",
]  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% for c in m.content %}{{ c.text }}{% endfor %}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><|audio_out_bos|>{% endif %}"
)


def write(folder: Path) -> tuple[Path, Path]:
    """Folders of the language model and of the codec."""
    language_model, codec = folder / "language_model", folder / "codec"
    torch.manual_seed(3)
    config = HiggsAudioV2TokenizerConfig(
        acoustic_model_config={
            "model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 16, "hidden_size": 8, "n_codebooks": 2,
            "codebook_size": 16, "codebook_dim": 4, "downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2],
        },
        semantic_model_config={
            "model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "conv_dim": (8, 8), "conv_kernel": (10, 5), "conv_stride": (5, 2),
            "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
        },
        codebook_size=16, codebook_dim=8, target_bandwidths=[0.5, 1],
    )  # fmt: skip
    HiggsAudioV2TokenizerModel(config).save_pretrained(codec)
    DacFeatureExtractor(sampling_rate=24_000, hop_length=320).save_pretrained(codec)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=MARKS, show_progress=False, initial_alphabet=alphabet, vocab_size=300)
    tokenizer.train_from_iterator(["the speaker talks in a warm voice"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|eot|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(language_model)
    ids = {mark: fast.convert_tokens_to_ids(mark) for mark in MARKS}
    model = HiggsAudioV2ForConditionalGeneration(
        HiggsAudioV2Config(
            vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=16, num_codebooks=config.num_quantizers, codebook_size=18,
            audio_token_id=ids["<|AUDIO_OUT|>"], audio_bos_token_id=ids["<|audio_out_bos|>"],
            audio_delay_token_id=ids["<|reserved_special_token_6|>"], audio_stream_bos_id=16, audio_stream_eos_id=17,
            pad_token_id=ids["<|pad|>"], eos_token_id=ids["<|audio_eos|>"], bos_token_id=ids["<|pad|>"],
        )
    )  # fmt: skip
    for weight in model.parameters():
        weight.data *= 8.0  # so that what is told matters
    model.save_pretrained(language_model)
    return language_model, codec
