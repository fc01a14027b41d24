"""The command line: one clear line and exit code 2 for a mistake, and options that take effect."""

import pytest

import rlhf_jax.run
from rlhf_jax import cli
from rlhf_jax.run import STAGES

QUICKSTART = "experiments/quickstart.py"


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(cli, "keep_pages", lambda: True)


@pytest.fixture
def calls(monkeypatch):
    """What a Run would be told to do, in place of doing it."""
    made = []

    class Recorder:
        def __init__(self, config, stop_after_steps, insist):
            made.append((config, stop_after_steps))

        def finish(self, stage):
            made.append(stage)

    monkeypatch.setattr(rlhf_jax.run, "Run", Recorder)
    return made


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


def test_every_stage_is_a_command():
    assert cli.STAGES == STAGES
    assert {"run", "generate", *STAGES} <= set(cli.COMMANDS)


def test_help_lists_the_experiment_s_fields(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "ppo", QUICKSTART, "--help")
    assert code == 0
    for option in ("--ppo.iterations", "--data.world.sft", "--stop-after-steps", "--seed"):
        assert option in out


MISTAKES = {
    "wrong command": (("fly", QUICKSTART), "no command 'fly'"),
    "no file": (("run",), "wants an experiment file"),
    "option for a file": (("run", "--seed", "1"), "wants an experiment file"),
    "absent file": (("run", "experiments/none.py"), "experiments/none.py: no such"),
    "no python": (("run", "README.md"), "README.md: an experiment is a Python file"),
    "impossible value": (("ppo", QUICKSTART, "--ppo.iterations", "0"), "iterations = 0"),
    "two that do not fit": (
        ("ppo", QUICKSTART, "--ppo.prompt-length", "1000"),
        "ppo.prompt_length + response_length",
    ),
    "impossible optimizer": (
        ("sft", QUICKSTART, "--sft.optimizer.learning-rate", "-1"),
        "learning_rate = -1",
    ),
}


@pytest.mark.parametrize("arguments, told", MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, calls, arguments, told):
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("rlhf-jax: ") and told in err and err.count("\n") == 1
    assert not calls


def test_a_file_without_a_config_is_one_line(monkeypatch, capsys, tmp_path):
    file = tmp_path / "empty.py"
    file.write_text("config = 3\n")
    code, _, err = run(monkeypatch, capsys, "run", str(file))
    assert code == 2
    assert err == (f"rlhf-jax: {file}: must define `config`, an rlhf_jax.experiment.Experiment\n")


@pytest.mark.parametrize(
    "option",
    [("--ppo.iteratons", "3"), ("--ppo.iterations", "many"), ("--stage", "reward")],
)
def test_an_unknown_field_or_a_value_of_another_type_is_named(monkeypatch, capsys, calls, option):
    code, out, err = run(monkeypatch, capsys, "ppo", QUICKSTART, *option)
    assert code == 2
    assert option[0] in out + err
    assert not calls


def test_options_change_the_config_however_deep_the_field(monkeypatch, capsys, calls):
    code, _, _ = run(
        monkeypatch, capsys, "ppo", QUICKSTART, "--ppo.policy-optimizer.learning-rate", "0.5",
        "--data.world.sft", "17", "--ppo.kl.coefficient", "0.07", "--model.layers", "2",
        "--out", "elsewhere", "--stop-after-steps", "3", "--seed", "9",
    )  # fmt: skip
    assert code == 0
    (config, stop), stage = calls
    assert (stage, stop) == ("ppo", 3)
    assert config.ppo.policy_optimizer.learning_rate == 0.5
    assert config.ppo_ptx.policy_optimizer.learning_rate != 0.5
    assert config.data.world.sft == 17
    assert config.ppo.kl.coefficient == 0.07
    assert (config.model.layers, config.seed, str(config.directory)) == (2, 9, "elsewhere")


def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, calls):
    def interrupted(self, stage):
        raise KeyboardInterrupt

    monkeypatch.setattr(rlhf_jax.run.Run, "finish", interrupted)
    code, _, err = run(monkeypatch, capsys, "sft", QUICKSTART)
    assert code == 130
    assert err.count("\n") == 1


def test_a_full_disk_outside_of_training_is_one_line(monkeypatch, capsys, calls):
    def full(self, stage):
        raise OSError(28, "No space left on device", "runs/quickstart/data/text")

    monkeypatch.setattr(rlhf_jax.run.Run, "finish", full)
    code, _, err = run(monkeypatch, capsys, "sft", QUICKSTART)
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("rlhf-jax: no space left on the disk for runs/quickstart/data/text; ")
