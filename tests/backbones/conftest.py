"""Tiny random checkpoints of published architectures, written by `save_pretrained` as the published ones are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    HubertConfig,
    HubertForSequenceClassification,
    MimiConfig,
    MimiModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    VitsConfig,
    VitsModel,
    VitsTokenizer,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from tests.tiny import TEXTS

WORDS = ("my", "dog", "ran", "away", "the", "train", "is", "late")


def _bytes() -> list[str]:
    """The 256 printable stand-ins for bytes in GPT-2's alphabet."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multilingual Whisper of two layers: 256 bytes, a few merges, the special tokens that decoding needs."""
    folder = tmp_path_factory.mktemp("whisper")
    vocabulary = {c: i for i, c in enumerate(_bytes())}
    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"]
    specials += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"<|endoftext|>": 256}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    ids = {s: tokenizer.get_vocab()[s] for s in specials}
    torch.manual_seed(11)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_target_positions=40, decoder_start_token_id=ids["<|startoftranscript|>"], bos_token_id=256,
        eos_token_id=256, pad_token_id=256, suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    for weight in model.parameters():
        weight.data *= 3.0  # far from uniform
    model.generation_config.update(max_length=None, max_new_tokens=20, suppress_tokens=[], begin_suppress_tokens=[])
    model.generation_config._from_model_config = False  # published ones come with a file of their own
    for name, value in {
        "is_multilingual": True,
        "lang_to_id": {m: ids[m] for m in ("<|en|>", "<|de|>")},
        "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        "no_timestamps_token_id": ids["<|notimestamps|>"],
    }.items():
        setattr(model.generation_config, name, value)  # `update` takes known names alone
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    return folder


EMOTION_MODELS = {
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2ForSequenceClassification),
    "hubert": (HubertConfig, HubertForSequenceClassification),
    "wavlm": (WavLMConfig, WavLMForSequenceClassification),
}


def write_emotion_model(name: str, folder: Path) -> Path:
    """A classifier of four emotions as IEMOCAP names them."""
    config_class, model_class = EMOTION_MODELS[name]
    torch.manual_seed(3)
    config = config_class(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16),
        conv_stride=(20, 16), conv_kernel=(40, 32), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, classifier_proj_size=16, id2label=dict(enumerate(("neu", "hap", "ang", "sad"))),
        label2id={"neu": 0, "hap": 1, "ang": 2, "sad": 3},
    )  # fmt: skip
    model = model_class(config)
    for weight in model.classifier.parameters():
        weight.data *= 150.0  # far from uniform
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=EMOTION_MODELS)
def emotion_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of emotions on each of the three encoders."""
    return write_emotion_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def hubert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of emotions on HuBERT."""
    return write_emotion_model("hubert", tmp_path_factory.mktemp("hubert"))


#: ChatML, as Qwen's instruct models write a conversation.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of two layers with a byte-level tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(
        [*TEXTS * 3, "Need: seeking Strategy: question Intent: consoling Style: warm Reply:"], trainer
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=2, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for weight in model.parameters():
        weight.data *= 4.0  # far from uniform
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def vits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS of small width that reads letters, at 22.05 kHz so that it must be resampled."""
    folder = tmp_path_factory.mktemp("vits")
    letters = ["<pad>", *"abcdefghijklmnopqrstuvwxyz' "]
    (folder / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(letters)}))
    tokenizer = VitsTokenizer(
        str(folder / "vocab.json"), pad_token="<pad>", unk_token="<pad>", phonemize=False, is_uroman=False
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = VitsConfig(
        vocab_size=len(letters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=24, flow_size=16,
        spectrogram_bins=33, posterior_encoder_num_wavenet_layers=2, prior_encoder_num_wavenet_layers=2,
        prior_encoder_num_flows=2, upsample_initial_channel=16, upsample_rates=[8, 8, 2, 2],
        upsample_kernel_sizes=[16, 16, 4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
        duration_predictor_filter_channels=16, use_stochastic_duration_prediction=False, sampling_rate=22_050,
    )  # fmt: skip
    model = VitsModel(config)
    with torch.no_grad():
        model.get_parameter("duration_predictor.proj.bias").add_(1.5)  # about five frames a letter
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def higgs_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Higgs Audio v2 and its codec."""
    from tests.backbones import higgs

    return higgs.write(tmp_path_factory.mktemp("higgs"))


@pytest.fixture(scope="session")
def mimi_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mimi of small width with the published rates (24 kHz, 12.5 frames a second) and a short attention window."""
    folder = tmp_path_factory.mktemp("mimi")
    torch.manual_seed(4)
    config = MimiConfig(
        hidden_size=16, num_filters=4, codebook_size=32, codebook_dim=8, vector_quantization_hidden_dimension=8,
        num_quantizers=4, num_semantic_quantizers=1, num_hidden_layers=2, intermediate_size=24, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, sliding_window=8, upsample_groups=16,
    )  # fmt: skip
    model = MimiModel(config)
    for name, buffer in model.named_buffers():  # codebooks are zeros until trained
        if name.endswith(("embed_sum", "cluster_usage")):
            buffer.data = torch.randn_like(buffer) if name.endswith("embed_sum") else torch.ones_like(buffer)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def wavlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WavLM of two layers without a head."""
    folder = tmp_path_factory.mktemp("wavlm")
    torch.manual_seed(6)
    config = WavLMConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16, 16),
        conv_stride=(20, 16), conv_kernel=(40, 32), num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder
