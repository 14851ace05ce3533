"""Imports go one way: a file imports only from its own layer and those above it."""

import ast
from pathlib import Path

import pytest

import omni

ROOT = Path(omni.__file__).parent
#: From the foundations to the command line; a layer may import from itself and from those before it.
LAYERS = (
    "errors", "files", "config", "hub", "preset", "sizes", "turns", "phones", "text", "spoken", "audio", "nn", "models",
    "answers", "backbones",
    "answering", "anticipation",
    "checkpoint", "assemble", "card", "packing", "empathy", "data", "train", "assistant", "talking", "evaluation",
    "batch", "serve", "bench", "demo", "cli", "__main__",
)  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def layer(module: str) -> int:
    return LAYERS.index(place(module))


def place(module: str) -> str:
    """The layer's name: `omni.bench_pace` belongs to bench."""
    return module.split(".")[1] if module.endswith("__") else module.split(".")[1].partition("_")[0]


def imported(source: str, module: str, is_package: bool = False) -> set[str]:
    """Modules of this package that a file names in any import, wherever in the file it stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package[: len(package) - node.level + 1], *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} if base == "omni" else {base}
    return {name for name in found if name.startswith("omni.")}


def module_name(path: Path) -> str:
    parts = ["omni", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", FILES, ids=[module_name(path) for path in FILES])
def test_a_file_imports_only_from_above(path):
    module = module_name(path)
    names = imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    if module == "omni":
        return  # the package's front door may offer anything
    assert place(module) in LAYERS, f"give {module} a place in LAYERS"
    for name in names:
        if name.split(".")[1].startswith("__"):
            continue  # omni.__version__
        assert layer(name) <= layer(module), f"{module} imports {name}, which is a layer below it"


def test_only_audio_io_opens_what_people_send():
    """Corpora are trusted: `data` and `train` may read them with soundfile."""
    users = {
        module_name(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and "soundfile" in {alias.name for alias in node.names} | {getattr(node, "module", None)}
    }
    users = {user for user in users if not user.startswith(("omni.data.", "omni.train."))}
    assert users == {"omni.audio.io"}


def test_trained_parts_need_no_research_libraries():
    banned = {"speechbrain", "librosa", "soundfile", "sklearn", "pocketsphinx"}
    for path in FILES:
        if module_name(path).startswith(("omni.models", "omni.nn")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & banned, path


def test_the_check_sees_every_kind_of_import():
    source = "import omni.train.loop\nfrom omni import data\nfrom omni.cli import main\ndef f():\n    from ..nn import conv\n"
    assert imported(source, "omni.models.encoder") == {"omni.train.loop", "omni.data", "omni.cli", "omni.nn"}
    assert layer("omni.models.encoder") < layer("omni.train.loop")
