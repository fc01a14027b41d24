"""Downloads human feedback and plain text from where they were published; verifies checksums."""

import hashlib
import os
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from rlhf_jax.durable.files import write_atomically
from rlhf_jax.errors import UserError

GITHUB = "https://raw.githubusercontent.com"
WIKITEXT = (
    f"{GITHUB}/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
    "/word_language_model/data/wikitext-2"
)
# file in the folder: (address, sha256)
FILES = {
    "hh-rlhf/harmless-base/test.jsonl.gz": (
        f"{GITHUB}/anthropics/hh-rlhf/354e5c3cb8960630860dd5774a6ac2a58313bf4d"
        "/harmless-base/test.jsonl.gz",
        "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03",
    ),
    "oasst-en100/en_100_tree.jsonl": (
        f"{GITHUB}/LAION-AI/Open-Assistant/f1e6ed9526f5817531f3ab85441a40b3671ddccb"
        "/model/model_eval/manual/data/en_100_tree.jsonl",
        "a27639214a5098bf9e1cc62a855c85c630b64ab48ee94655e7f6046438b0aedb",
    ),
    "pandalm/testset-v1.json": (
        f"{GITHUB}/WeOpenML/PandaLM/3871806e72b4832f815ecafd24d3503c73403f48/data/testset-v1.json",
        "cc154f9067c7382d7ea86f8f246511a5e1ac87e1fddd845c5938d789505b07a4",
    ),
    "wikitext-2/valid.txt": (
        f"{WIKITEXT}/valid.txt",
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8",
    ),
    "wikitext-2/test.txt": (
        f"{WIKITEXT}/test.txt",
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0",
    ),
    "tinyshakespeare/input.txt": (
        f"{GITHUB}/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
        "/data/tinyshakespeare/input.txt",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
}


def download_human_data(
    folder: str | os.PathLike, files: Mapping[str, tuple[str, str]] = FILES
) -> Path:
    """Downloads the files that `folder` lacks and returns the folder. All files have about 6.2 MB;
    they contain offensive text.

    Raises:
      UserError: an address cannot be reached, a file has another sha256 than expected, or a file's
        name leads out of the folder.
    """
    for name, (address, checksum) in files.items():
        path = Path(folder) / name
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise UserError(f"{name}: leads out of {folder}")
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == checksum:
            continue
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                content = answer.read()
        except (OSError, HTTPException) as error:
            raise UserError(f"{address}: cannot be fetched: {error}") from None
        found = hashlib.sha256(content).hexdigest()
        if found != checksum:
            raise UserError(f"{address}: expected sha256 {checksum[:12]}..., got {found[:12]}...")
        write_atomically(path, content)
    return Path(folder)
