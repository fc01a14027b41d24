"""The command line: one clear line and exit code 2 for a mistake, and options that take effect."""

import dataclasses
import io
import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest

from rlhf_jax import cli
from rlhf_jax.durable import files
from rlhf_jax.durable.fingerprint import check_fingerprint
from rlhf_jax.errors import UserError
from rlhf_jax.generation.ending import Response
from rlhf_jax.runs import experiment, generate, reading, report, take
from rlhf_jax.runs import run as runs
from rlhf_jax.runs.experiment import load_experiment
from rlhf_jax.runs.origin import Origin
from rlhf_jax.stages.dpo import DirectPreference
from rlhf_jax.stages.stage import Build, Prompting

SMALL = "tests/small_run.py"
QUICKSTART = "experiments/quickstart.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.fixture
def calls(monkeypatch):
    """What a Run would be told to do, in place of doing it."""
    made = []

    class Recorder:
        def __init__(self, config, stop_after_steps=None, insist=False, stages=(), origin=None):
            made.append((config, stop_after_steps, insist, stages, origin))

        def check(self, stages, report=False):
            made.append(("check", stages, report))

        def finish(self, stage):
            made.append(stage)

    monkeypatch.setattr(runs, "Run", Recorder)
    monkeypatch.setattr(files, "writable_directory", lambda path, field: None)
    monkeypatch.setattr(report, "report", lambda run, stages: made.append(("report", stages)))
    monkeypatch.setattr(report, "report_finished", lambda run: made.append("report of finished"))
    return made


def test_the_program_starts_with_large_pages(monkeypatch):
    called = []
    monkeypatch.setattr(cli, "start_with_large_pages", lambda: called.append("pages"))
    monkeypatch.setattr(cli, "main", lambda: called.append("main"))
    (program,) = metadata.distribution("rlhf_jax").entry_points
    program.load()()
    assert (program.name, called) == ("rlhf-jax", ["pages", "main"])


def run(monkeypatch, capsys, *arguments):
    """(exit code, standard output, standard error) of rlhf-jax ARGUMENTS."""
    monkeypatch.setattr("sys.argv", ["rlhf-jax", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return ended.value.code or 0, out, err


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_without_a_command_the_commands_are_told(monkeypatch, capsys, arguments):
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    for command in cli.COMMANDS:
        assert f"\n  {command} " in out


def test_a_reader_that_has_read_enough_is_no_traceback():
    reads, writes = os.pipe()
    os.close(reads)
    program = [sys.executable, "-c", "from rlhf_jax.cli import main; main()", "--help"]
    done = subprocess.run(program, stdout=writes, stderr=subprocess.PIPE, check=False)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_commands_are_those_that_no_stage_can_be():
    assert set(cli.ABOUT) == set(experiment.COMMANDS)


CHAIN = ("pretrain", "sft", "feedback", "reward", "ppo")


def test_every_stage_of_an_experiment_is_a_command(monkeypatch, capsys, calls):
    for stage in load_experiment(SMALL).stages:
        del calls[:]
        assert run(monkeypatch, capsys, stage, SMALL)[0] == 0
        assert calls[-1] == stage
    del calls[:]
    run(monkeypatch, capsys, "ppo", SMALL, "--insist", "--stop-after-steps", "3", "--seed", "4")
    (config, stop, insist, stages, origin), last = calls
    assert (config.seed, stop, insist, stages, last) == (4, 3, True, CHAIN, "ppo")
    assert origin.file == os.path.abspath(SMALL)
    assert origin.options == ("--insist", "--stop-after-steps", "3", "--seed", "4")


def test_stages_that_a_command_names_are_trained_and_those_below_them_are_taken(monkeypatch, calls):
    monkeypatch.setattr(take, "take_from", lambda *asked: calls.append(asked))
    assert cli.command(["ppo", SMALL, "--from", "runs/other"]) == 0
    (config, other, stages), _, last = calls
    below = [stage for stage in CHAIN if stage != "ppo"]
    assert (config.name, other, stages, last) == ("small", "runs/other", below, "ppo")
    for options, left in ((["--stages", "reward", "dpo"], {"pretrain", "sft", "feedback"}),
                          ([], set(config.stages))):  # fmt: skip
        del calls[:]
        assert cli.command(["run", SMALL, "--from", "runs/other", *options]) == 0
        assert set(calls[0][2]) == left


def test_run_is_all_stages_each_after_what_it_needs_and_the_report(monkeypatch, capsys, calls):
    """In an experiment whose first stage is the last to run."""
    small = load_experiment(SMALL)
    turned = dataclasses.replace(small, stages=dict(reversed(small.stages.items())))
    monkeypatch.setattr(experiment, "load_experiment", lambda path: turned)
    assert run(monkeypatch, capsys, "run", SMALL)[0] == 0
    (*_, stages, _), last = calls
    assert last == ("report", stages)
    assert stages == ("pretrain", "sft", "feedback", "dpo", "reward", "ppo_ptx", "ppo", "prompted")


def test_report_is_of_what_has_finished(monkeypatch, capsys, calls, tmp_path):
    arguments = ("report", SMALL, "--insist", "--out", str(tmp_path))
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert (code, err, calls) == (2, f"rlhf-jax: {tmp_path}: holds no run to report on\n", [])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/counts.json").write_text("{}")
    assert run(monkeypatch, capsys, *arguments)[0] == 0
    (config, stop, insist, stages, origin), *then = calls
    assert (str(config.directory), stop, insist, stages) == (str(tmp_path), None, True, ())
    assert origin is None and then == [("check", (), True), "report of finished"]
    Origin(SMALL, ("--seed", "8")).write(tmp_path)
    assert run(monkeypatch, capsys, "report", str(tmp_path))[0] == 0
    (config, *_), *_ = calls[3:]
    assert (str(config.directory), config.seed) == (str(tmp_path), 8)
    code, _, err = run(monkeypatch, capsys, *arguments, "--stop-after-steps", "3")
    assert code == 2 and "--stop-after-steps: no such option" in err  # it would do nothing


def test_the_stages_of_an_experiment_are_told_a_line_each(monkeypatch, capsys):
    for arguments in ((SMALL,), (SMALL, "--help")):
        code, out, err = run(monkeypatch, capsys, *arguments)
        assert (code, err) == (0, "")
        first, *lines = out.splitlines()
        assert first == f"stages of {SMALL}"
        assert [line.split()[0] for line in lines] == list(load_experiment(SMALL).stages)
        assert "  sft       Fine-tunes the policy of the stage `start` on demonstrations" in lines
        (ptx,) = [line for line in lines if line.startswith("  ppo_ptx ")]
        assert ptx.endswith(")") and "(as ppo, but " in ptx and "ptx_coefficient = " in ptx


def test_loading_an_experiment_starts_no_device():
    """Processes have to join before."""
    program = (
        f"from rlhf_jax.runs.experiment import load_experiment; load_experiment({SMALL!r})\n"
        "import rlhf_jax.runs.run, rlhf_jax.runs.options\n"
        "from jax._src.xla_bridge import backends_are_initialized\n"
        "raise SystemExit(3 + backends_are_initialized())"
    )
    path = {"PYTHONPATH": os.pathsep.join(["", *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], check=False, env=os.environ | path)
    assert done.returncode == 3


def test_help_lists_the_stage_s_fields_and_names_the_other_stages(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "ppo", QUICKSTART, "--help")
    assert code == 0 and len(out.splitlines()) < 570
    for option in ("--ppo.iterations", "--data.world.sft", "--stop-after-steps", "--seed"):
        assert option in out
    assert "--sft." not in out and "--evaluators." not in out
    told = " ".join(out.split())
    assert "[OPTIONS] Policy gradient against a reward. The settings of PPO" in told
    assert "a stage: pretrain, prompted, sft, feedback, reward, dpo, ppo_ptx" in " ".join(
        out.split()
    )


@pytest.mark.parametrize("command", ["run", "report", "generate", "score", "plan"])
def test_help_of_all_stages_lists_none_s_fields(monkeypatch, capsys, command):
    code, out, _ = run(monkeypatch, capsys, command, SMALL, "--help")
    assert code == 0 and "--ppo." not in out and "--feedback." not in out
    assert "--evaluation.batch-size" in out
    assert ("--stage " in out) == (command in ("generate", "score"))
    assert ("--topology " in out) == (command == "plan")
    assert ("--stop-after-steps " in out) == (command == "run")
    assert ("--evaluators." in out) == (command in ("run", "report"))
    assert ("--loop." in out) == (command == "run")


def test_help_of_a_command_lists_its_own_options(monkeypatch, capsys):
    for arguments, *told in (
        (("compare",), "RUN is a run's directory", "--out the folder", "(default: runs/comparison)",
         "--between two models of the table", "(default: none)"),
        (("replay",), "RUN/STAGE/sick/step_N.npz", "--experiment the experiment file, if it has"),
        (("sweep", SMALL), "--over [STR [STR ...]] FIELD VALUE VALUE: an option of the experiment"),
        (("estimators",), "[OPTIONS] measures the bias", "--out PATH the folder for estimators.js"),
    ):  # fmt: skip
        code, out, _ = run(monkeypatch, capsys, *arguments, "--help")
        assert code == 0
        for text in told:
            assert text in " ".join(out.replace("│", " ").split()), text


@pytest.mark.parametrize("command", ["ppo", *(c for c in cli.COMMANDS if c != "estimators")])
def test_every_command_has_help_without_an_experiment(monkeypatch, capsys, command):
    for option in ("--help", "-h"):
        code, out, err = run(monkeypatch, capsys, command, option)
        assert (code, err) == (0, "")
        assert out.startswith(f"rlhf-jax {command} ")
        assert cli.ABOUT.get(command, cli.STAGE).splitlines()[0].split(": ")[-1] in out


MISTAKES = {
    "wrong command": (
        ("fly", QUICKSTART),
        "no command 'fly': must be one of run, sweep, compare, report, generate, score, eval, "
        "lm-eval, cross-validate, export, fetch, label, doctor, replay, data, plan, estimators, or "
        f"a stage of {QUICKSTART}: pretrain, ",
    ),
    "no file": (("run",), "run needs an experiment file"),
    "a stage without its file": (("ppo",), "ppo is no command; a stage needs an experiment file"),
    "option for a file": (("run", "--seed", "1"), "needs an experiment file"),
    "absent file": (("run", "experiments/none.py"), "experiments/none.py: no such"),
    "no python": (("run", "README.md"), "README.md: an experiment is a Python file"),
    "impossible value": (("ppo", QUICKSTART, "--ppo.iterations", "0"), " ppo.iterations = 0: "),
    "two that do not fit": (
        ("ppo", QUICKSTART, "--ppo.prompt-length", "1000"),
        "ppo.prompt_length + response_length",
    ),
    "impossible optimizer": (
        ("sft", QUICKSTART, "--sft.optimizer.learning-rate", "-1"),
        " sft.optimizer.learning_rate = -1",
    ),
    "a value that another option rules out": (
        ("sft", QUICKSTART, "--sft.batch-size", "32", "--sft.micro-batches=3"),
        " sft.micro_batches = 3: must be a divisor of batch_size = 32",
    ),
    "a field that no option gave": (
        ("ppo", QUICKSTART, "--ppo.batch-size", "126"),
        " ppo.batch_size = 126: must be a multiple of",
    ),
    "a warm-up as long as PPO": (
        ("ppo", QUICKSTART, "--ppo.iterations", "40", "--ppo.value-optimizer.warmup-steps", "160"),
        " ppo.value_optimizer.warmup_steps = 160: must be below the 160 updates",
    ),
    "a field of an evaluator": (
        ("run", QUICKSTART, "--evaluators.none.every", "3"),
        " --evaluators.none.every: ",
    ),
    "an unknown field": (
        ("ppo", QUICKSTART, "--ppo.iteratons", "3"),
        " --ppo.iteratons: ppo is of the class PolicyGradient, which has no field iteratons; "
        "did you mean --ppo.iterations?",
    ),
    "another class's field": (
        ("ppo", QUICKSTART, "--ppo.kl.target", "6"),
        " --ppo.kl.target: ppo.kl is of the class FixedController, which has no field target; "
        "AdaptiveController and DoublingController have it: the experiment file sets the class",
    ),
    "a stage that is not there": (
        ("ppo", QUICKSTART, "--ppo.start", "stf"),
        " ppo.start = 'stf': must be a stage of this experiment: pretrain, ",
    ),
    "a field of the world": (
        ("pretrain", QUICKSTART, "--data.world.documents", "0"),
        " data.world.documents = 0: ",
    ),
    "a field that is None in the file": (
        ("pretrain", QUICKSTART, "--data.world.seed", "-1"),
        " data.world.seed = -1: ",
    ),
}


@pytest.mark.parametrize("arguments, told", MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, calls, arguments, told):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("rlhf-jax: ") and told in err and err.count("\n") == 1
    assert not calls


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("a = 1\nb = (2,\n", ":2: SyntaxError: '(' was never closed"),
        ("a = 1\n\nb = a.c\n", ":3: AttributeError: 'int' object has no attribute 'c'"),
        ("import nothing_of_this_name\n", ":1: ModuleNotFoundError: No module named 'nothing_"),
        ("raise ValueError('two\\nlines')\n", ":1: ValueError: two\n"),
        ("raise SystemExit(0)\n", ":1: SystemExit: 0"),
        (
            "from rlhf_jax.training.optimizer import OptimizerConfig as O\nrate = O(\n    -1.0)\n",
            ":2: learning_rate = -1.0: must be",
        ),
    ],
)
def test_an_error_in_the_experiment_file_has_its_line(monkeypatch, capsys, tmp_path, source, told):
    file = tmp_path / "broken.py"
    file.write_text(source)
    code, out, err = run(monkeypatch, capsys, "run", str(file))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rlhf-jax: {file}{told.rstrip()}")
    monkeypatch.chdir(tmp_path.parent)
    relative = f"{tmp_path.name}/broken.py"
    _, _, err = run(monkeypatch, capsys, "run", relative)
    assert err.startswith(f"rlhf-jax: {relative}{told.rstrip()}")


def test_an_error_in_what_the_file_imports_names_that_file(monkeypatch, capsys, tmp_path):
    (tmp_path / "imported_by_it.py").write_text("x = 1\ny = = 2\n")
    (tmp_path / "imports.py").write_text("import imported_by_it\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = run(monkeypatch, capsys, "run", str(tmp_path / "imports.py"))
    assert code == 2
    assert err == f"rlhf-jax: {tmp_path / 'imported_by_it.py'}:2: SyntaxError: invalid syntax\n"


@pytest.mark.parametrize("under", ["", "/run"])
@pytest.mark.parametrize(
    "command",
    [("run", QUICKSTART, "--out"), ("sft", QUICKSTART, "--out"), ("estimators", "--out")],
    ids=lambda command: command[0],
)
def test_out_that_is_a_file_or_lies_under_one_is_one_line(
    monkeypatch, capsys, tmp_path, command, under
):
    file = tmp_path / "file"
    file.write_text("kept")
    code, out, err = run(monkeypatch, capsys, *command, f"{file}{under}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rlhf-jax: out = '{file}{under}': must be a directory that can be")
    assert file.read_text() == "kept"


def test_plan_s_json_is_refused_before_anything_compiles(monkeypatch, capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for json, told in ((tmp_path, "must be a file"), (file / "x.json", "must be a directory")):
        code, _, err = run(monkeypatch, capsys, "plan", QUICKSTART, "--json", str(json))
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith("rlhf-jax: json = ") and told in err


def test_a_directory_that_takes_no_file_is_refused(monkeypatch, tmp_path):
    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    with pytest.raises(UserError, match=r"out = .*can be written to: permission denied"):
        files.writable_directory(tmp_path / "new", "out")


def test_devices_that_do_not_fit_are_told_before_data_are_built(monkeypatch, capsys, tmp_path):
    arguments = ("sft", QUICKSTART, "--out", str(tmp_path), "--parallel.fsdp", "3")
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("rlhf-jax: parallel.fsdp x parallel.tensor = 3: must be a divisor of")
    arguments = ("sft", QUICKSTART, "--out", str(tmp_path), "--sft.batch-size", "36")
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert err.startswith("rlhf-jax: sft.batch_size = 36: must be a multiple or a divisor of the 8")
    assert not list(tmp_path.iterdir())


def test_bytes_that_are_no_text_are_told_with_their_line():
    asked = generate.text_prompts([b"a\\nb\r\n", "\u6f22".encode()], "x:")
    assert [one[:3] for one in asked] == [("x:1", "a\nb", {}), ("x:2", "\u6f22", {})]
    for lines, told in (
        ([b"\xff"], "line 1: byte 0xff at 1"),
        ([b"a\n", b"b\xc3\n"], "line 2: byte"),
    ):
        with pytest.raises(UserError, match=told):
            generate.text_prompts(lines, "line ")


@pytest.fixture
def finished(monkeypatch, tmp_path):
    """A run of seed 5 whose pretraining, SFT and DPO have finished, for `generate` to read."""
    for stage in ("pretrain", "sft", "dpo"):
        (tmp_path / stage / "model").mkdir(parents=True)
        check_fingerprint(tmp_path / stage, {"seed": 7})  # as of another run's
    check_fingerprint(tmp_path / "data", {"seed": 5})
    (tmp_path / "data/counts.json").write_text("{}")
    monkeypatch.setattr(reading, "has_model", lambda path: path.is_dir())
    asked = []

    class Reader:
        tokenizer = SimpleNamespace(prompt_ids=lambda prompt: [0, *prompt])
        runner = SimpleNamespace(evaluate=None)
        as_text = staticmethod(lambda record: record)

        def __init__(self, config, insist):
            self.config, self.evaluation = config, self
            asked.append((config.seed, insist))

        def build(self, stage):
            model = self.config.model
            return Build(stage, model, {"start": model}, None)

        def model(self, stage):
            return f"model of {stage}"

        def key(self, purpose):
            return purpose

        def prompting(self, stage):
            return Prompting("1234" if stage == "prompted" else "")

        def asked(self, stage):
            config = self.config.evaluation
            return dataclasses.replace(config, prompt_length=7) if stage == "prompted" else config

        def answering(self, stage, params, prompts, key):
            asked.append((stage, params, prompts, key))
            for place, prompt in enumerate(prompts):
                yield place, Response(prompt.upper() + "\n", (), True), 0.0

    monkeypatch.setattr(reading, "Run", Reader)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    return tmp_path, asked


@pytest.mark.parametrize(
    ("options", "stage", "purpose"),
    [
        ((), "dpo", "generate/responses/0"),  # the last in the experiment's order
        (("--seed", "3"), "dpo", "generate/responses/3"),  # another sample of the same model
        (("--stage", "pretrain"), "pretrain", "generate/responses/0"),
        (("--stage", "sft", "--seed", "5"), "sft", "generate/responses/5"),
    ],
)
def test_generate_reads_the_last_finished_stage_or_the_one_named(
    monkeypatch, capsys, finished, options, stage, purpose
):
    out, asked = finished
    code, said, err = run(monkeypatch, capsys, "generate", QUICKSTART, "--out", str(out), *options)
    assert (code, said) == (0, "ONE\\n\nTWO\\n\n")
    assert err == f"generate: the model of {stage} in {out}\n"
    assert asked == [(5, False), (stage, f"model of {stage}", ["one", "two"], purpose)]


@pytest.mark.parametrize("seed", [None, "5"])
def test_generate_names_a_seed_that_is_missing(monkeypatch, capsys, finished, seed):
    out, _ = finished
    (out / "data/config.json").unlink()
    check_fingerprint(out / "data", {"other": 1} if seed is None else {"seed": seed})
    code, _, err = run(monkeypatch, capsys, "generate", QUICKSTART, "--out", str(out))
    assert (code, err.count("\n")) == (2, 1)
    assert f"data/config.json: seed: expected a whole number, got {seed!r}" in err


def test_generate_trains_nothing(monkeypatch, capsys, finished):
    out, asked = finished
    arguments = ("generate", QUICKSTART, "--stage", "ppo_ptx", "--out")
    code, _, err = run(monkeypatch, capsys, *arguments, str(out))
    assert code == 2
    assert err == (f"rlhf-jax: {out}: ppo_ptx has not finished, and this command trains nothing; "
                   "finished are pretrain, prompted, sft, dpo\n")  # fmt: skip
    code, _, err = run(monkeypatch, capsys, *arguments, str(out / "none"))
    assert code == 2 and "no stage has finished that ends with a policy" in err
    assert not asked and not (out / "none").exists()


@pytest.mark.parametrize("stage", ["reward", "feedback", "fly"])
def test_generate_asks_a_policy_alone(monkeypatch, capsys, finished, stage):
    out, asked = finished
    arguments = ("generate", QUICKSTART, "--stage", stage, "--out", str(out))
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert (code, err.count("\n")) == (2, 1) and not asked
    assert err.startswith(f"rlhf-jax: stage = '{stage}': must be one that ends with a policy: ")


TOO_LONG = {
    "a line": ((), "line 2: 33 tokens, a prompt of dpo has 32 at most (evaluation.prompt_length)"),
    "behind examples": (
        ("--stage", "prompted"),
        "line 1: 8 tokens, a prompt of prompted has 7 at most (evaluation.prompt_length)",
    ),
    "both": (
        ("--evaluation.prompt-length", "100", "--evaluation.response-length", "61",
         "--model.context", "161"),
        "prompt_length + response_length of dpo = 161: must be <= its context 160",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LONG)
def test_generate_names_the_line_whose_prompt_is_too_long(monkeypatch, capsys, finished, name):
    out, asked = finished
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\n" + b"a" * 32)))
    monkeypatch.setattr(DirectPreference, "shape", lambda self, build: replaced(build.model))
    options, told = TOO_LONG[name]
    code, said, err = run(monkeypatch, capsys, "generate", QUICKSTART, "--out", str(out), *options)
    assert (code, said, err) == (2, "", f"rlhf-jax: {told}\n") and len(asked) == 1


def replaced(model):
    return dataclasses.replace(model, context=160)


def test_a_file_without_a_config_is_one_line(monkeypatch, capsys, tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("config = 3\n")
    code, _, err = run(monkeypatch, capsys, "run", str(file))
    assert code == 2
    assert err == (
        f"rlhf-jax: {file}: must define `config`, an rlhf_jax.runs.experiment.Experiment\n"
    )


def test_two_stages_of_one_name_are_one_line(monkeypatch, capsys, tmp_path):
    """Python keeps the last of them; a key that is no constant says nothing."""
    file = tmp_path / "twice.py"
    file.write_text("a, b = 'sft', 'sft'\nkept = {a: 1, b: 2}\nx = [{\n'ppo': 1,\n'ppo': 2}]\n")
    code, _, err = run(monkeypatch, capsys, "run", str(file))
    assert (code, err) == (2, f"rlhf-jax: {file}:5: 'ppo' stands twice in this dict\n")


@pytest.mark.parametrize("command, needs", [("doctor", "RUN"), ("replay", "BATCH")])
def test_doctor_and_replay_say_what_they_need(monkeypatch, capsys, command, needs):
    code, _, err = run(monkeypatch, capsys, command)
    assert code == 2 and err.startswith(f"rlhf-jax: {command} needs {needs}, a ")


@pytest.mark.parametrize(
    "option",
    [("--ppo.iterations", "many"), ("--ppo.ptx-per", "row"), ("--seed", "0.5")],
)
def test_a_value_of_another_type_is_named(monkeypatch, capsys, calls, option):
    code, out, err = run(monkeypatch, capsys, "ppo", QUICKSTART, *option)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"rlhf-jax: {' '.join(option)}: expected ")
    assert not calls


def test_options_change_the_config_however_deep_the_field(monkeypatch, capsys, calls):
    code, _, _ = run(
        monkeypatch, capsys, "ppo", QUICKSTART, "--ppo.policy-optimizer.learning-rate", "0.5",
        "--data.world.sft", "17", "--ppo.kl.coefficient", "0.07", "--model.layers", "2",
        "--out", "elsewhere", "--stop-after-steps", "3", "--seed", "9", "--ppo.value-clip", "None",
    )  # fmt: skip
    assert code == 0
    config, stop, *_ = calls[0]
    assert (calls[-1], stop) == ("ppo", 3)
    ppo, ppo_ptx = config.stages["ppo"], config.stages["ppo_ptx"]
    assert ppo.policy_optimizer.learning_rate == 0.5 != ppo_ptx.policy_optimizer.learning_rate
    assert config.data.world.sft == 17
    assert (ppo.kl.coefficient, ppo.value_clip) == (0.07, None)
    assert (config.model.layers, config.seed, str(config.directory)) == (2, 9, "elsewhere")


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, calls):
    def interrupted(self, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Run, "finish", interrupted)
    code, _, err = run(monkeypatch, capsys, "sft", QUICKSTART)
    assert code == 130
    assert err.count("\n") == 1


def test_a_full_disk_outside_of_training_is_one_line(monkeypatch, capsys, calls):
    def full(self, stage):
        raise OSError(28, "No space left on device", "runs/quickstart/data/text")

    monkeypatch.setattr(runs.Run, "finish", full)
    code, _, err = run(monkeypatch, capsys, "sft", QUICKSTART)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("rlhf-jax: no space left on the disk for runs/quickstart/data/text; ")
