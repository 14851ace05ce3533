"""Every recording that must be read, and every input that must be refused in words that help."""

import io
import logging
import os
import shutil
import struct
import subprocess

import numpy as np
import pytest
import soundfile

from omni.audio.io import (
    WRITE_FORMATS,
    check_output,
    clipped_share,
    encode,
    from_samples,
    load_clip,
    read_audio,
    read_bytes,
    read_stream,
    write_audio,
)
from omni.config import AudioConfig
from omni.errors import DataError, InputError, OutputError, UsageError
from omni.turns import Audio

SMALL = AudioConfig(longest_query_s=5.0, largest_file_mb=2.0)
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def tone(seconds=1.0, rate_hz=16_000, hz=220.0):
    """A decaying tone: unlike a steady one it has no flat level that looks like clipping."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.5 * np.sin(2 * np.pi * hz * time) * np.exp(-time / seconds)).astype(np.float32)


def wav_bytes(samples, rate_hz=16_000, subtype="PCM_16", container="WAV"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, subtype=subtype, format=container)
    return buffer.getvalue()


def same_sound(audio, tolerance=0.05):
    expected = tone()
    assert audio.sample_rate_hz == 16_000
    assert audio.samples.dtype == np.float32
    assert audio.samples.ndim == 1
    assert abs(audio.duration_s - 1.0) < 0.1
    size = 40_000  # by circular correlation, because coders such as MP3 delay the sound
    product = np.fft.rfft(audio.samples, size) * np.fft.rfft(expected, size).conj()
    return np.fft.irfft(product, size).max() / np.square(expected).sum() > 1 - tolerance


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"])
def test_every_wav_coding(tmp_path, subtype):
    path = tmp_path / "query.wav"
    path.write_bytes(wav_bytes(tone(), subtype=subtype))
    assert same_sound(read_audio(path))


@pytest.mark.parametrize("rate_hz", [8000, 11025, 12345, 22050, 44100, 47999, 48000, 96000, 192000])
def test_every_sample_rate(rate_hz):
    audio = read_bytes(wav_bytes(tone(rate_hz=rate_hz), rate_hz))
    assert same_sound(audio)
    assert abs(len(audio.samples) - 16_000) <= 2


@pytest.mark.parametrize("rate_hz", [1, 4000, 384000])
def test_other_sample_rates_are_refused(rate_hz):
    with pytest.raises(InputError, match=f"{rate_hz} Hz; allowed: 8000 to 192000 Hz"):
        read_bytes(wav_bytes(tone(), rate_hz))


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed(channels):
    assert same_sound(read_bytes(wav_bytes(np.repeat(tone()[:, None], channels, axis=1))))


def test_channels_that_cancel_are_not_silence():
    assert same_sound(read_bytes(wav_bytes(np.stack([tone(), -tone()], axis=1), subtype="FLOAT")))


@pytest.mark.parametrize("suffix", list(WRITE_FORMATS))
def test_write_and_read_back(tmp_path, suffix):
    path = tmp_path / f"reply{suffix}"
    write_audio(path, Audio(tone()))
    assert same_sound(read_audio(path))
    assert same_sound(read_stream(path.open("rb")))
    assert list(tmp_path.iterdir()) == [path]


@needs_ffmpeg
@pytest.mark.parametrize("suffix", [".m4a", ".aac", ".webm"])
def test_what_ffmpeg_reads(tmp_path, suffix):
    source, path = tmp_path / "a.wav", tmp_path / f"a{suffix}"
    source.write_bytes(wav_bytes(tone(rate_hz=48_000), 48_000))
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, path], check=True)
    for audio in (read_audio(path), read_bytes(path.read_bytes())):
        assert 0.9 < audio.duration_s < 1.2
        assert np.abs(audio.samples).max() > 0.3


@needs_ffmpeg
def test_long_m4a_is_refused_by_its_header(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=300:sample_rate=8000:duration=30", "-b:a", "16k"]
    subprocess.run([*command, path], check=True)
    commands = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **kw: commands.append(command[0]) or run(command, **kw))
    with pytest.raises(InputError, match=r"lasts 30\.\d s; at most 5 s"):
        read_audio(path, SMALL)
    assert commands == ["ffprobe"]


def test_m4a_without_ffmpeg_names_the_remedy(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"needs ffmpeg: install it \(apt-get install ffmpeg\)"):
        read_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))


@needs_ffmpeg
def test_a_broken_m4a_is_refused():
    with pytest.raises(InputError, match="ffmpeg cannot decode"):
        read_bytes(b"\0\0\0\x1cftypM4A " + bytes(100), name="broken.m4a")


def test_missing_folder_pipe_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path, words in (
        (tmp_path / "none.wav", "there is no file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe.wav", "only regular files"),
        ("/dev/zero", "only regular files"),
        ("a\0.wav", "cannot be opened"),
        ("x" * 5000, "cannot be opened"),
    ):
        with pytest.raises(InputError, match=words):
            read_audio(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "secret.wav"
    path.write_bytes(wav_bytes(tone()))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # permissions do not bind root, who may run the tests
    with pytest.raises(InputError, match=r"may not be read.*chmod"):
        read_audio(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"Dear diary, this is text and not a sound.\n" * 50, "is not sound"),
        (b"\0" * 5000, "is not sound"),
        (b"RIFF\x24\0\0\0WAVE", "is not sound"),
        (os.urandom(4000), "is not sound|lasts|ffmpeg"),
    ],
)
def test_what_is_no_sound(tmp_path, data, words):
    path = tmp_path / "query.wav"
    path.write_bytes(data)
    with pytest.raises(InputError, match=words):
        read_audio(path)
    with pytest.raises(InputError, match=words):
        read_bytes(data)


@pytest.mark.parametrize("suffix", [".raw", ".txt", ".mp3", ""])
def test_the_contents_count_and_not_the_name(tmp_path, suffix):
    path = tmp_path / f"query{suffix}"
    path.write_bytes(wav_bytes(tone()))
    assert same_sound(read_audio(path))


def test_a_supported_library_format_that_is_not_ours():
    with pytest.raises(InputError, match="not supported"):
        read_bytes(wav_bytes(tone(), container="MAT5"))


def test_truncated_wav_is_used_with_a_warning(tmp_path, caplog):
    path = tmp_path / "cut.wav"
    path.write_bytes(wav_bytes(tone())[:20_001])
    with caplog.at_level(logging.WARNING):
        audio = read_audio(path)
    assert abs(audio.duration_s - 0.62) < 0.01
    assert "truncated" in caplog.text
    path.write_bytes(wav_bytes(tone())[:244])
    with pytest.raises(InputError, match="lasts 6 ms; at least 100 ms"):
        read_audio(path)


def test_a_streamed_wav_of_unknown_length_gives_no_warning(caplog):
    data = bytearray(wav_bytes(tone()))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    with caplog.at_level(logging.WARNING):
        assert same_sound(read_bytes(bytes(data)))
    assert caplog.text == ""


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".ogg", ".opus"])
def test_cut_compressed_files_never_crash(suffix):
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000)
    data = encode(Audio(noise.astype(np.float32)), suffix)
    for share in (0.02, 0.3, 0.7):
        try:
            audio = read_bytes(data[: int(len(data) * share)])
        except InputError:
            continue
        assert audio.duration_s < 3.1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers(bad):
    samples = np.repeat(tone()[:, None], 2, axis=1)
    samples[8000, 1] = bad
    with pytest.raises(InputError, match="not numbers"):
        read_bytes(wav_bytes(samples, subtype="FLOAT"))
    with pytest.raises(InputError, match="not numbers"):
        from_samples(samples, 16_000)


@pytest.mark.parametrize("level", [0.0, 0.3, 1e-5])
def test_silence_with_and_without_dc(level):
    with pytest.raises(InputError, match="is silent"):
        read_bytes(wav_bytes(np.full(16_000, level), subtype="FLOAT"))


def test_too_short():
    with pytest.raises(InputError, match=r"lasts 20 ms; at least 100 ms.*shortest_query_s"):
        read_bytes(wav_bytes(tone(0.02)))


def test_half_an_hour_is_refused_before_decoding(tmp_path, monkeypatch):
    """The file is sparse: a header that promises 30 minutes and the bytes to go with it."""
    path, size = tmp_path / "long.wav", 30 * 60 * 32_000
    header = wav_bytes(np.zeros(0))[:40] + struct.pack("<I", size)
    path.write_bytes(header[:4] + struct.pack("<I", size + 36) + header[8:])
    os.truncate(path, size + 44)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"lasts 1800\.0 s; at most 120 s.*longest_query_s"):
        read_audio(path)


def test_too_large_is_refused_before_opening(tmp_path, monkeypatch):
    path = tmp_path / "large.wav"
    path.write_bytes(b"RIFF")
    os.truncate(path, 3_000_000)
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(InputError, match=r"3\.0 MB or more; at most 2 MB.*largest_file_mb"):
        read_audio(path, SMALL)
    with path.open("rb") as file, pytest.raises(InputError, match="at most 2 MB"):
        read_stream(file, SMALL)


def test_dc_is_taken_out_and_loud_floats_are_scaled():
    audio = read_bytes(wav_bytes(tone() + 0.2, subtype="FLOAT"))
    assert abs(audio.samples.mean()) < 1e-6
    loud = read_bytes(wav_bytes(tone() * 1000, subtype="FLOAT"))
    assert np.abs(loud.samples).max() <= 1.0


def test_clipping_is_warned_of(caplog):
    speech_like = np.random.default_rng(0).laplace(0, 0.05, 32_000)
    assert clipped_share(speech_like) == 0.0
    with caplog.at_level(logging.WARNING):
        read_bytes(wav_bytes(speech_like.clip(-1, 1)))
        assert caplog.text == ""
        read_bytes(wav_bytes((speech_like * 30).clip(-1, 1)))
    assert "clipped" in caplog.text


def test_clips_of_a_corpus(tmp_path):
    path = tmp_path / "clip.wav"
    path.write_bytes(wav_bytes(np.stack([tone(0.01, 48_000), tone(0.01, 48_000)], axis=1), 48_000))
    assert load_clip(path).shape == (160,)
    assert load_clip(path, 24_000).shape == (240,)
    path.write_text("no sound")
    with pytest.raises(DataError, match="cannot be read"):
        load_clip(path)


def test_samples_from_memory():
    audio = from_samples((tone() * 32767).astype(np.int16), 16_000)
    assert same_sound(audio)
    unsigned = (tone() * 127 + 128).astype(np.uint8)
    assert same_sound(from_samples(unsigned, 16_000))
    assert same_sound(from_samples(np.stack([tone(), -tone()], axis=1), 16_000))
    with pytest.raises(InputError, match="shape"):
        from_samples(np.zeros((2, 16_000), dtype=np.float32), 16_000)


def test_writing_refuses_what_it_must(tmp_path):
    path = tmp_path / "reply.wav"
    with pytest.raises(UsageError, match=r"'\.txt'; allowed: \.wav, \.flac"):
        write_audio(tmp_path / "reply.txt", Audio(tone()))
    with pytest.raises(OutputError, match="mkdir -p"):
        write_audio(tmp_path / "none" / "reply.wav", Audio(tone()))
    with pytest.raises(OutputError, match="not numbers"):
        write_audio(path, Audio(np.array([0.0, np.nan], dtype=np.float32)))
    write_audio(path, Audio(tone()))
    before = path.read_bytes()
    with pytest.raises(OutputError, match="--force"):
        write_audio(path, Audio(tone(2.0)))
    with pytest.raises(OutputError, match="--force"):
        check_output(path)
    assert path.read_bytes() == before
    write_audio(path, Audio(tone(2.0)), force=True)
    assert abs(read_audio(path).duration_s - 2.0) < 0.001
    assert list(tmp_path.iterdir()) == [path]


def test_written_wav_is_16_bit_and_limited(tmp_path):
    path = tmp_path / "reply.wav"
    write_audio(path, Audio(np.array([0.0, 0.5, 2.0, -3.0] * 1000, dtype=np.float32)))
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 16_000, 1)
    samples, _ = soundfile.read(path)
    assert samples.max() > 0.999
    assert samples.min() == -1.0


def test_a_rate_that_a_coder_lacks_is_told():
    with pytest.raises(UsageError, match=r"write \.wav instead"):
        encode(Audio(tone(rate_hz=22_050), 22_050), ".opus")
