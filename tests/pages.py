"""The commands and Python blocks of a page, and a driver that runs them on a small experiment.

    python -m tests.pages RUN < parts.json

RUN is a finished run of tests/small_run.py. The driver copies it to runs/quickstart of the current
folder, writes experiments/*.py that hold the small experiment with three of its evaluators, and
runs each part in this process: ["sh", "rlhf-jax ..."] or ["python", "code"]; code that begins with
"# NAME.py" is written to this file.
"""

import contextlib
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FIRST_WORDS = ("rlhf-jax", "echo", "make", "pip", "python", "pytest", "sbatch", "launch/")
EXPERIMENT = """
import dataclasses
from tests.small_run import config
names = "gold_score", "gold_score_wins_vs_sft", "samples"
kept = [evaluator for evaluator in config.evaluators if evaluator.name in names]
assert len(kept) == 3
config = dataclasses.replace(config, name={!r}, evaluators=tuple(kept))
"""
# What takes minutes as it stands on a page, and what is run in its place.
SHRUNK = {"0.1 0.2 0.4": "0.1 0.2 --from runs/quickstart", "--seeds 0 1 2": "--seeds 1",
          "doctor RUN": "doctor runs/quickstart",
          "run mine.py": "run mine.py --rloo.iterations 2"}  # fmt: skip


class Part(NamedTuple):
    kind: str  # "sh", "python" or another word behind the fence
    text: str


def parts(page: str) -> list[Part]:
    """The fenced blocks of a page and the commands of its indented lines, in their order."""
    found, fence, block = [], None, []
    for line in re.sub(r" *\\\n\s*", " ", page).splitlines():
        if line.startswith("```"):
            if fence is None:
                fence, block = line[3:], []
            else:
                found.append(Part(fence, "\n".join(block) + "\n"))
                fence = None
        elif fence is not None:
            block.append(line)
        elif line.startswith("    ") and line.split()[0].startswith(FIRST_WORDS):
            found.append(Part("sh", re.split(r"\s{2,}#", line)[0].strip()))
    return found


def run_command(text: str) -> int:
    """`echo '...' | rlhf-jax ...`, or without the echo."""
    from rlhf_jax import cli

    for there, here in SHRUNK.items():
        text = text.replace(there, here)
    before, _, command = text.rpartition("| ")
    given = shlex.split(before)[1] + "\n" if before else ""
    sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode()))
    return cli.command(shlex.split(command)[1:])


def main(run: str) -> None:
    shutil.copytree(run, "runs/quickstart")
    Path("experiments").mkdir()
    for file in (ROOT / "experiments").glob("*.py"):
        (Path("experiments") / file.name).write_text(EXPERIMENT.format(file.stem))
    prompts = [{"prompt": "User: Give me two fruits.\nAssistant:"}]
    Path("prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    for kind, text in json.load(sys.stdin):
        print(f"==== {text}", flush=True)
        if kind == "python" and (named := re.match(r"# (\w+\.py)\n", text)):
            Path(named[1]).write_text(text)
        elif kind == "python":
            exec(text, {})
        elif code := run_command(text):
            sys.exit(f"{text}: exit code {code}")
        with contextlib.suppress(ValueError):
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
