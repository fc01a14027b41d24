"""`rlhf-jax cross-validate`: what it trains and joins; and that a reward model orders pairs of the
labelers whom it knows better, where their tastes are all that there is."""

import json
import random

import pytest

from rlhf_jax import cli
from rlhf_jax.data.records import Demonstration, Ranking, read_jsonl, write_jsonl
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.feedback.cross_validation import split
from rlhf_jax.feedback.pools import LabelerPool
from rlhf_jax.runs import cross_validation
from rlhf_jax.runs.cross_validation import Agreement

EXPERIMENT = "experiments/folder.py"
WORDS = [f"{a}{b}" for a in "bdfgklmnpr" for b in "aeio"]
SMALL = ["--model.layers=1", "--model.width=32", "--model.heads=2", "--model.vocab-size=512",
         "--sft.epochs=1", "--sft.length=32", "--reward.length=32", "--reward.epochs=8",
         "--reward.optimizer.learning-rate=0.005", "--evaluators.accuracy.length=32",
         "--evaluators.accuracy.every=1000", "--loop.checkpoint-every=1000"]  # fmt: skip


def records(folder, prompts: int):
    """Rankings of four texts of six words by five labelers, each with a taste of its own and no
    other difference."""
    rng, pool = random.Random(0), LabelerPool(size=5, groups=5, taste=1.0)
    made = []
    for n, name in enumerate(pool.assigned(prompts, seed=0)):
        texts = [" " + " ".join(rng.sample(WORDS, 6)) for _ in range(4)]
        ranks = pool.rank(name, f"p{n}", texts, [0.0] * 4, 0.0, seed=0, levels=None)
        made.append(Ranking(f"ask {n}:", texts, ranks, labeler=name))
    write_jsonl(folder / "rankings.train.jsonl", made)
    told = [Demonstration(r.prompt, r.responses[0]) for r in made[:40]]
    write_jsonl(folder / "demonstrations.train.jsonl", told)
    return made


@pytest.fixture
def faked(monkeypatch, request):
    """The runs that would be trained, and the stages of each; the n-th measured file has the
    accuracy 0.5 + n / 100."""
    made, measured = [], []

    class FakeRun:
        def __init__(self, config, stages=(), origin=None):
            self.config, self.stages, self.origin, self.done = config, stages, origin, []
            made.append(self)

        def check(self, stages):
            assert not self.done

        def finish(self, stage):
            self.done.append(stage)

    def agreement(run, stage, file):
        measured.append((run.config.directory.name, stage, file))
        return Agreement(0.5 + len(measured) / 100, 10, 5, 0)

    monkeypatch.chdir(request.config.rootpath)
    monkeypatch.setattr(cross_validation, "Run", FakeRun)
    monkeypatch.setattr(cross_validation, "agreement", agreement)
    return made, measured


def test_each_fold_is_a_run_and_their_accuracies_are_joined(faked, tmp_path, capsys):
    made, measured = faked
    rankings = records(tmp_path / "mine", 60)
    given = ["--data.path", str(tmp_path / "mine"), "--out", str(tmp_path / "to"), "--folds", "2",
             "--held-out", "0.2"]  # fmt: skip
    assert cli.command(["cross-validate", EXPERIMENT, *given]) == 0
    assert [run.done for run in made] == 2 * [["sft", "reward"]]
    folds = split(rankings, 2, 0.2, seed=0)
    for number, (run, fold) in enumerate(zip(made, folds, strict=True)):
        place = tmp_path / "to" / f"fold_{number}"
        assert str(run.config.directory) == str(place)
        assert run.config.data.path == str(place / "records")
        assert read_jsonl(place / "records" / "rankings.train.jsonl", Ranking) == fold.train
        assert (place / "records" / "demonstrations.train.jsonl").is_file()
        started = run.origin.config()  # without the options of cross-validate
        assert (started.out, started.data.path) == (str(place), f"{place}/records")
        assert [read_jsonl(file, Ranking) for name, stage, file in measured
                if name == place.name] == [fold.known, fold.others]  # fmt: skip
    found = json.loads((tmp_path / "to" / "labelers.json").read_text())
    assert found["known"]["mean"] == pytest.approx(0.52)  # of 0.51 and 0.53
    assert found["others"]["mean"] == pytest.approx(0.53)  # of 0.52 and 0.54
    assert found["others"]["error"] == pytest.approx(0.01)
    assert found["difference"]["mean"] == pytest.approx(-0.01)
    assert found["difference"]["error"] == pytest.approx(0, abs=1e-12)
    out = capsys.readouterr().out
    assert "labelers whom the reward models know: 52.0 +- 1.0 %; others: 53.0 +- 1.0 %; " in out
    assert "known: 53.0 % of 10 pairs; others: 54.0 % of 10 pairs" in out


def test_what_cannot_be_cross_validated(faked, tmp_path):
    with pytest.raises(UserError, match=r"cross-validate needs EXPERIMENT.py, as in"):
        cli.command(["cross-validate", "--folds", "2"])
    with pytest.raises(ConfigError, match=r"^data = 'WorldData': must be FolderData"):
        cli.command(["cross-validate", "experiments/quickstart.py"])
    records(tmp_path / "mine", 10)
    given = ["--data.path", str(tmp_path / "mine"), "--out", str(tmp_path / "to")]
    with pytest.raises(ConfigError, match=r"^stage = 'sft': must be a reward model's: reward"):
        cli.command(["cross-validate", EXPERIMENT, *given, "--stage", "sft"])
    with pytest.raises(UserError, match=r"rankings.train.jsonl: \d+ labelers: 50 folds need"):
        cli.command(["cross-validate", EXPERIMENT, *given, "--folds", "50"])
    assert faked[0] == []


@pytest.mark.slow
def test_a_reward_model_predicts_the_labelers_whom_it_knows_better(tmp_path, monkeypatch, request):
    """Labelers have tastes of their own and nothing else. A reward model that learns the mean of
    four tastes has a correlation of 1/2 with each, so it orders 1/2 + asin(1/2) / pi = 2/3 of their
    pairs rightly; of the fifth's, one half."""
    monkeypatch.chdir(request.config.rootpath)
    records(tmp_path / "mine", 800)
    given = ["--data.path", str(tmp_path / "mine"), "--out", str(tmp_path / "to"), *SMALL]
    assert cli.command(["cross-validate", EXPERIMENT, *given]) == 0
    found = json.loads((tmp_path / "to" / "labelers.json").read_text())
    assert len(found["each"]) == 5
    assert 0.58 < found["known"]["mean"] < 0.7 and 0.42 < found["others"]["mean"] < 0.58
    assert found["difference"]["mean"] > 3 * found["difference"]["error"] > 0
