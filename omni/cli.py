"""The command line: every command of `omni`; `omni --help` lists them.

Exit codes: 0 all went well; 1 something failed; 2 wrong options; 3 the query cannot be heard; 4 the output cannot be
written; 5 weights or configuration; 6 data; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omni import __version__
from omni.errors import InputError, ModelError, OmniError, UsageError


def turn_as_dict(turn: Any, audio: Path | None) -> dict[str, Any]:
    """The object that `omni reply --json` prints."""
    plan, style = turn.reply.plan, turn.reply.style
    return {
        "heard": turn.heard.plain(),
        "perceived": turn.perception.plain(),
        "plan": {"need": plan.need, "strategy": plan.strategy, "intent": plan.intent, "style": plan.style},
        "reply": turn.reply.text,
        "style": {k: round(v, 3) if isinstance(v, float) else v for k, v in vars(style).items()},
        "audio": str(audio) if audio else None,
        "timings_ms": {k: round(v, 1) for k, v in turn.timings_ms.items()},
    }


def _assistant(options: argparse.Namespace) -> Any:
    """The assistant that --model or --preset, --device and --vocoder ask for."""
    from omni.assistant import Assistant

    vocoder = getattr(options, "vocoder", None)
    if options.preset is None:
        if options.device != "auto":
            raise UsageError("--device is for presets; omni-mini runs on the processor")
        return Assistant.load(options.model, vocoder)
    if options.model is not None or vocoder is not None:
        raise UsageError("--preset names every part; leave out --model and --vocoder, or write a preset of your own")
    return Assistant.of_preset(options.preset, options.device)


def _reply(options: argparse.Namespace) -> int:
    from omni.audio import io

    output = Path(options.output)
    io.check_output(output, options.force)
    audio = io.read_audio(options.query)
    assistant = _assistant(options)
    turn = assistant.reply(audio, seed=options.seed)
    assert turn.reply.audio is not None
    io.write_audio(output, turn.reply.audio, options.force)
    if options.json:
        print(json.dumps(turn_as_dict(turn, output), ensure_ascii=False))
        return 0
    seen, plan = turn.perception, turn.reply.plan
    unsure = "" if turn.heard.understood else "  (not understood)"
    print(f"heard      {turn.heard.text or '(nothing)'}{unsure}")
    print(
        f"perceived  {seen.emotion} ({seen.confidence:.0%} sure), {seen.level}; the voice {_relation(seen.match)} the words"
    )
    print(f"plan       need {plan.need}, {plan.strategy}, {plan.intent}, {plan.style} voice")
    print(f"reply      {turn.reply.text}")
    print(output)
    return 0


def _relation(match: str) -> str:
    return {"agrees": "agrees with", "adds": "adds a feeling to"}.get(match, "contradicts")


def _hear(options: argparse.Namespace) -> int:
    from omni.audio import io

    assistant, failed = _assistant(options), 0
    for name in options.files:
        row: dict[str, Any] = {"file": name}
        try:
            heard, perception = assistant.hear(io.read_audio(name))
            row |= {"heard": heard.plain(), "perceived": perception.plain()}
        except OmniError as error:
            failed = error.exit_code
            row["error"] = str(error)
        print(json.dumps(row, ensure_ascii=False), flush=True)
    return failed


def _batch(options: argparse.Namespace) -> int:
    if options.preset is None and options.device != "auto":
        raise UsageError("--device is for presets; omni-mini runs on the processor")
    if options.preset is not None and options.model is not None:
        raise UsageError("--preset names every part; leave out --model, or write a preset of your own")
    from omni.batch.job import Job
    from omni.batch.run import Options, run

    job = Job(options.model, options.preset, options.device, f".{options.format}", options.text_only)
    chosen = Options(options.workers, options.retry_failed, options.report, options.engine, options.address)
    summary = run(options.input, Path(options.out), job, chosen)
    print(f"{summary.queries - summary.failed} of {summary.queries} answered: {Path(options.out) / 'manifest.jsonl'}")
    if summary.failed:
        print(
            f"omni: {summary.failed} failed, see `error` in the manifest; --retry-failed tries again", file=sys.stderr
        )
    return InputError.exit_code if summary.failed else 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from omni.demo import app
    except ModuleNotFoundError as error:
        raise UsageError(f"the demo needs {error.name}; install with: pip install 'omni-empathy[demo]'") from error
    from omni.demo.studio import Studio

    app.check_free(options.host, options.port)
    assistant = _assistant(options)
    assistant.warm_up()
    if (warning := app.warning(options.host)) is not None:
        print(f"omni: {warning}", file=sys.stderr)
    print(f"open http://{options.host}:{options.port} in a browser; Ctrl-C ends it", flush=True)
    app.serve(Studio(assistant, options.preset or "omni-mini", options.device), options.host, options.port)
    return 0


def _download(options: argparse.Namespace) -> int:
    from omni import hub
    from omni.backbones.kinds import check
    from omni.preset import load_preset
    from omni.sizes import licence

    preset = load_preset(options.preset)
    check(preset)
    wanted = [(part, spec) for part, spec in preset.models() if not Path(spec.model).is_dir()]
    if not wanted:
        print(f"preset {preset.name} needs nothing that is not on this machine")
        return 0
    remotes = [hub.describe(spec.model, spec.revision) for _, spec in wanted]
    for (part, spec), remote in zip(wanted, remotes, strict=True):
        print(f"{part:10} {spec.model}  {remote.total_bytes / 1e9:.2f} GB  {licence(spec)}", flush=True)
    hub.check_space(remotes)
    if options.dry_run:
        return 0
    for remote in remotes:
        print(f"{remote.name} -> {hub.fetch(remote)}", flush=True)
    return 0


def _presets(options: argparse.Namespace) -> int:
    from omni.preset import load_preset, names
    from omni.sizes import of_preset

    rows = [of_preset(load_preset(name)) for name in names()]
    if options.json:
        print(json.dumps([row.plain() for row in rows], indent=2))
        return 0
    for row in rows:
        print(row.text())
    return 0


def _info(options: argparse.Namespace) -> int:
    if options.presets:
        return _presets(options)
    from omni.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(options.model)
    rows = [{"file": name, **entry} for name, entry in checkpoint.index["files"].items()]
    for row in rows:
        checkpoint.path(row["file"])
        row["bytes"] = (checkpoint.folder / row["file"]).stat().st_size
    if options.json:
        print(json.dumps({"folder": str(checkpoint.folder), "version": __version__, "files": rows}, indent=2))
        return 0
    print(f"omni {__version__}, {checkpoint.config.name} in {checkpoint.folder} (all hashes match)")
    for row in rows:
        print(f"  {row['file']:28} {row['bytes'] / 1e6:7.2f} MB  {row.get('licence', '')}")
    return 0


def _data(value: str | None) -> Path:
    chosen = value or os.environ.get("OMNI_DATA")
    if not chosen:
        raise UsageError("where is the data? give --data DIR or set OMNI_DATA (see docs/training.md)")
    if not Path(chosen).is_dir():
        raise UsageError(f"--data {chosen} is not a folder")
    return Path(chosen)


def _data_get(options: argparse.Namespace) -> int:
    from omni.data.catalogue import CORPORA, Corpus, find
    from omni.data.fetching import get

    def accepts(corpus: Corpus) -> bool:
        print(f"{corpus.name}: {corpus.about}; licence {corpus.licence}; terms at {corpus.home}", flush=True)
        if options.accept_licence or not sys.stdin.isatty():
            return options.accept_licence
        return input("Do you accept its licence? [y/N] ").strip().lower() in ("y", "yes")

    if options.list:
        print("\n".join(corpus.row() for corpus in CORPORA.values()))
        return 0
    if options.name is None:
        raise UsageError("which corpus? give a name; omni data get --list shows all")
    find(options.name)
    get(options.name, _data(options.data), accepts)
    return 0


def _data_pack(options: argparse.Namespace) -> int:
    from omni.data.manifest import read
    from omni.data.shards import write_shards

    clips = read(Path(options.manifest))
    shards = write_shards(clips, Path(options.out), options.clips_per_shard)
    print(f"{len(clips)} clips in {len(shards)} shards: {shards[0].parent}/shard-*.tar")
    return 0


def _train(options: argparse.Namespace) -> int:
    import torch

    from omni.train.recipe import load_recipe
    from omni.train.stages import train

    if options.threads:
        torch.set_num_threads(options.threads)
    path = Path(options.recipe)
    recipe = load_recipe(path, options.debug)
    run = Path(options.run) if options.run else Path("runs") / path.stem.lstrip("0123456789_")
    trainer = train(recipe, _data(options.data), run, options.minutes)
    print(f"step {trainer.step} of {recipe.steps}; weights in {run / 'export'}, figures in {run / 'metrics.jsonl'}")
    return 0


def _eval(options: argparse.Namespace) -> int:
    from omni import evaluation

    nisqa = Path(options.nisqa) if options.nisqa else None
    if options.preset and options.out == "docs":
        raise UsageError("docs/ holds the figures of omni-mini; name another folder: --out runs/eval")
    figures = evaluation.run(
        options.suites,
        _data(options.data),
        options.model,
        Path(options.out),
        options.limit,
        options.seed,
        nisqa,
        Path(options.keep) if options.keep else None,
        options.preset,
        options.device,
    )
    print(json.dumps(figures, indent=2, default=str))
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.batch:
        if options.preset is not None or options.random_weights:
            raise UsageError("--batch times omni-mini; leave out --preset and --random-weights")
        from omni.bench_batch import run_bench

        queries = [Path(q) for q in options.queries] or None
        print(json.dumps(run_bench(options.model, Path(options.out), queries, options.copies), indent=2))
        return 0
    if options.preset is not None or options.random_weights:
        return _bench_preset(options)
    for option, chosen in (
        ("--device", options.device != "auto"),
        ("--tiny", options.tiny),
        ("--compile", options.compile),
    ):
        if chosen:
            raise UsageError(f"{option} goes with --preset NAME --random-weights; omni-mini runs on the processor")
    from omni import bench

    queries = [Path(q) for q in options.queries] or None
    print(json.dumps(bench.run(options.model, Path(options.out), queries), indent=2, default=str))
    return 0


def _bench_preset(options: argparse.Namespace) -> int:
    if options.preset is None or not options.random_weights:
        raise UsageError(
            "--preset NAME and --random-weights go together: published models are timed without their weights"
        )
    if options.queries or options.model is not None:
        raise UsageError("--preset names every part and its query has a fixed length; leave out --model and recordings")
    from omni import bench_size

    figures = bench_size.run(options.preset, options.device, Path(options.out), options.tiny, options.compile)
    if options.tiny:
        print("omni: --tiny: no figure below says anything of the preset's speed", file=sys.stderr)
    print(json.dumps(figures, indent=2))
    return 0


def _synth(options: argparse.Namespace) -> int:
    from omni.data.synthesis import sentences, synthesise

    texts = [t for name in options.text for t in sentences(Path(name))]
    print(synthesise(texts, Path(options.out), options.clips, options.seed))
    return 0


def _words(options: argparse.Namespace) -> int:
    if options.tune:
        from omni.train.search_tuning import tune_search

        words = Path(options.out) / "words.safetensors"
        print(tune_search(_data(options.data), Path(options.tune), words, words))
        return 0
    from omni.train.wording import train_words

    print(train_words(_data(options.data), Path(options.out)))
    return 0


def _pack(options: argparse.Namespace) -> int:
    from omni.packing import pack

    print(pack(Path(options.runs), Path(options.out)))
    return 0


def _serve(options: argparse.Namespace) -> int:
    if options.preset is None and options.device != "auto":
        raise UsageError("--device is for presets; omni-mini runs on the processor")
    if options.preset is not None and options.model is not None:
        raise UsageError("--preset names every part; leave out --model")
    if not 1 <= options.workers <= 64:
        raise UsageError(f"--workers {options.workers}: allowed are 1 to 64; as many as there are cores is plenty")
    try:
        from omni.serve.config import ServeConfig, read_keys
        from omni.serve.running import Loading, serve
    except ImportError as error:
        raise ModelError(f"serving needs {error.name}; install with: pip install 'omni-empathy[serve]'") from error

    keys = read_keys(options.api_key_file) if options.api_key_file else ()
    config = ServeConfig(options.host, options.port, keys, options.log_text)
    serve(Loading(options.model, options.preset, options.device), config, options.workers)
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    root = argparse.ArgumentParser(prog="omni", description="Talk to it; it answers in speech with empathy.")
    root.add_argument("--version", action="version", version=f"omni {__version__}")
    root.add_argument("-v", "--verbose", action="store_true", help="log what happens")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, action: Any, text: str, model: bool = True, among: Any = commands
    ) -> argparse.ArgumentParser:
        made = among.add_parser(name, help=text, description=text)
        made.set_defaults(action=action)
        if model:
            made.add_argument(
                "--model", help="checkpoint folder or name (default: the shipped omni-mini, or OMNI_HOME)"
            )
        return made

    reply = command("reply", _reply, "answer a spoken query with a spoken reply")
    reply.add_argument("query", help="a recording: WAV, FLAC, OGG, Opus, MP3 (M4A with ffmpeg)")
    reply.add_argument("-o", "--output", default="reply.wav", help="where the reply goes (default reply.wav)")
    reply.add_argument("--force", action="store_true", help="replace an existing output")
    reply.add_argument("--json", action="store_true", help="print one JSON object")
    reply.add_argument("--seed", type=int, default=0, help="same seed, same reply (default 0)")
    reply.add_argument("--vocoder", choices=("world", "neural"), help="vocoder (default: the checkpoint's)")
    hear = command("hear", _hear, "words and perception of many files, one JSON line each")
    hear.add_argument("files", nargs="+")
    demo = command("demo", _demo, "talk in the browser: a page on this machine")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine only)")
    demo.add_argument("--port", type=int, default=7860, help="default 7860")
    served = command("serve", _serve, "serve the assistant over HTTP and WebSockets (docs/serving.md)")
    served.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1; another needs --api-key-file")
    served.add_argument("--port", type=int, default=8000, help="default 8000")
    served.add_argument("--api-key-file", metavar="FILE", help="API keys, one in a line; without it none is asked for")
    served.add_argument("--log-text", action="store_true", help="write what is said and replied into the log")
    served.add_argument("--workers", type=int, default=1, help="processes, each with its own weights (default 1)")
    batch = command("batch", _batch, "answer many recordings; begun again, it goes on where it was stopped")
    batch.add_argument("input", help="a folder, a glob in quotes, a manifest (.jsonl, .csv) or tar shards")
    batch.add_argument("out", help="folder for replies, manifest.jsonl and timings.jsonl")
    batch.add_argument("--workers", type=int, help="processes of one thread each (default: one for each core)")
    batch.add_argument("--format", choices=("wav", "flac", "mp3", "opus"), default="wav", help="default wav")
    batch.add_argument("--text-only", action="store_true", help="reply in words alone, without sound")
    batch.add_argument("--retry-failed", action="store_true", help="try queries again that failed before")
    batch.add_argument("--report", action="store_true", help="write report.html too, to listen and look through")
    batch.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: several machines")
    batch.add_argument("--address", help="the Ray cluster, HOST:PORT (default: start Ray on this machine)")
    info = command("info", _info, "what is installed; checks every hash")
    info.add_argument("--json", action="store_true")
    info.add_argument("--presets", action="store_true", help="size, licence, memory and downloads of every preset")
    download = command("download", _download, "fetch the published models of a preset", model=False)
    download.add_argument("preset", help="name of a preset, or its YAML file")
    download.add_argument("--dry-run", action="store_true", help="only say what would be fetched")
    evaluate = command("eval", _eval, "measure and write docs/results.md")
    for one in (reply, hear, served, evaluate, batch, demo):
        one.add_argument("--preset", help="name of a preset, or its YAML file (omni info --presets lists them)")
        one.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1: where a preset's models run")
    data = commands.add_parser("data", help="fetch corpora, pack them into shards", description="Corpora to train on.")
    kinds = data.add_subparsers(dest="kind", required=True, metavar="COMMAND")
    get = command("get", _data_get, "fetch a corpus whose terms allow it", model=False, among=kinds)
    get.add_argument("name", nargs="?", help="a corpus, or a part of one: ravdess, librispeech/dev-clean")
    get.add_argument("--data", help="data folder (default: OMNI_DATA)")
    get.add_argument("--accept-licence", action="store_true", help="accept the corpus's licence without being asked")
    get.add_argument("--list", action="store_true", help="all corpora, their size and licence")
    shards = command("pack", _data_pack, "pack a manifest's clips into shards", model=False, among=kinds)
    shards.add_argument("manifest")
    shards.add_argument("out", help="a new folder")
    shards.add_argument("--clips-per-shard", type=int, default=1000, help="default 1000")
    train = command("train", _train, "run a training recipe", model=False)
    train.add_argument("recipe")
    train.add_argument("--data", help="data folder (default: OMNI_DATA)")
    train.add_argument("--run", help="run folder (default: runs/NAME); an unfinished run there goes on")
    train.add_argument("--debug", action="store_true", help="the recipe's few-step twin")
    train.add_argument("--minutes", type=float, help="stop, save and export after this long")
    train.add_argument("--threads", type=int, help="processor threads")
    evaluate.add_argument(
        "suites", nargs="*", default=["all"], help="all, or some; `prompting` compares ways of asking"
    )
    evaluate.add_argument("--data", help="data folder (default: OMNI_DATA)")
    evaluate.add_argument("--out", default="docs")
    evaluate.add_argument("--limit", type=int)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--keep", help="keep replies in this folder as they are made; the same command then goes on")
    evaluate.add_argument("--nisqa", help="nisqa.tar (default: where torchmetrics looks)")
    bench = command("bench", _bench, "latency, real-time factor and memory")
    bench.add_argument("queries", nargs="*")
    bench.add_argument("--out", default="docs")
    bench.add_argument("--batch", action="store_true", help="queries a minute of omni batch instead")
    bench.add_argument("--copies", type=int, default=20, help="--batch: how often each query is answered (default 20)")
    bench.add_argument("--preset", help="speed of a preset's published models instead; with --random-weights")
    bench.add_argument("--random-weights", action="store_true", help="build them from their kept configurations")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1: where they run")
    bench.add_argument("--compile", action="store_true", help="have torch.compile fuse the kernels of a decoding step")
    bench.add_argument("--tiny", action="store_true", help="two small layers of each, to test the bench itself")
    synth = command("synth", _synth, "read texts aloud with espeak-ng and flite, as training data", model=False)
    synth.add_argument("out")
    synth.add_argument("--text", nargs="+", required=True)
    synth.add_argument("--clips", type=int, default=7000)
    synth.add_argument("--seed", type=int, default=1)
    words = command("words", _words, "train the listener's word language model", model=False)
    words.add_argument("out")
    words.add_argument("--data", help="data folder (default: OMNI_DATA)")
    words.add_argument("--tune", metavar="LISTENER", help="tune OUT's search to this listener export instead")
    pack = command("pack", _pack, "collect trained parts into a checkpoint folder", model=False)
    pack.add_argument("runs")
    pack.add_argument("out")
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors that a person can mend are one line on standard error."""
    options = parser().parse_args(arguments)
    if options.command in ("reply", "hear", "serve", "eval", "bench", "batch", "demo"):
        # One query is too small to share out: threads that wait for each other cost more than they bring, above all
        # on a busy machine. Read by torch when it is first imported.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(levelname)s %(message)s")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        return options.action(options)
    except OmniError as error:
        print(f"omni: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a folder that may not be written, a full disk
        print(f"omni: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("omni: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
