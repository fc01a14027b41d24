"""Win rates by people's rankings, by an example that is computed by hand."""

import json

import pytest

from rlhf_jax import cli
from rlhf_jax.errors import ConfigError, RecordError, UserError
from rlhf_jax.evaluation.statistics import bounded_mean
from rlhf_jax.labelling import wins
from rlhf_jax.labelling.item import Item, Output
from tests.labelling.test_export import labeled

OF = lambda text, *origins: Output(text, origins=origins)
ITEMS = [
    Item("rank", "p", (OF("good", "ppo"), OF("bad", "sft"))),
    Item("rank", "q", (OF("both", "ppo", "sft"), OF("own", "sft"))),
    Item("rank", "r", (OF("a", "ppo"), OF("b", "ppo"), OF("c", "sft"))),
    Item("rank", "gold", (OF("x", "ppo"), OF("y", "sft")), gold=(1, 0)),
    Item("rank", "other", (OF("x", "dpo"), OF("y", "sft"))),
]
SAID = {
    "anna": [[0, 1], [1, 0], [0, 2, 1], [0, 1], [0, 1]],
    "ben": [[0, 0], None, None, [0, 1], None],
}
# p: 1 of anna, a tie of ben. q: the text of both ties with itself, and loses to SFT's other. r: one
# of the two outputs wins.
SHARES = [0.75, 0.25, 0.5]


@pytest.fixture
def database(tmp_path):
    return labeled(tmp_path / "run" / "labels", ITEMS, SAID)


def test_the_example_by_hand(database, tmp_path):
    found = wins.win_rates(wins.answers_of(tmp_path, database), "sft")
    assert [(one.model, one.against) for one in found] == [("dpo", "sft"), ("ppo", "sft")]
    ppo = found[1]
    assert (ppo.prompts, ppo.comparisons, ppo.ties) == (3, 6, pytest.approx(2 / 6))
    assert ppo.rate == bounded_mean(SHARES) and ppo.rate.mean == pytest.approx(0.5)
    assert ppo.p == 1.0  # a prompt is won, one is lost, one is neither
    assert found[0].rate == bounded_mean([1.0]) and found[0].p == 1.0
    (mirrored,) = [one for one in wins.win_rates(wins.answers_of(tmp_path, database), "ppo")
                   if one.model == "sft"]  # fmt: skip
    assert mirrored.rate.mean == pytest.approx(1 - ppo.rate.mean)
    answers = wins.answers_of(tmp_path, database)
    gold = {**answers[0], "prompt": "another", "gold": [1, 0]}
    assert wins.win_rates([*answers, gold], "sft") == found  # gold items do not count
    pairs = wins.win_rates(answers)
    assert [(one.model, one.against) for one in pairs] == [("dpo", "sft"), ("ppo", "sft")]


def test_the_sign_test_is_over_prompts(tmp_path):
    pair = (OF("x", "ppo"), OF("y", "sft"))
    items = [Item("rank", f"p{n}", pair) for n in range(6)]
    items.append(Item("rank", "p0", (OF("other", "ppo"), OF("texts", "sft"))))
    said = {"anna": [[0, 1]] * 7, "ben": [[0, 1]] * 7}
    (found,) = wins.win_rates(wins.answers_of(tmp_path, labeled(tmp_path / "l", items, said)))
    assert (found.prompts, found.comparisons, found.p) == (6, 14, pytest.approx(2 / 2**6))


def test_the_command_reads_the_labels_or_their_export(database, tmp_path, capsys):
    run, out = str(tmp_path / "run"), tmp_path / "wins.json"
    assert cli.command(["label", "wins", run, "--against", "sft", "--to", str(out)]) == 0
    told = capsys.readouterr().out
    assert "ppo against sft: 0.500 [" in told
    assert "] of 3 prompts (6 comparisons, 33 % ties; sign test p = 1)\n" in told
    content = json.loads(out.read_text())
    assert content[1]["rate"] == bounded_mean(SHARES).as_json()
    assert cli.command(["label", "export", run, "--to", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    assert cli.command(["label", "wins", str(tmp_path / "mine"), "--against", "sft"]) == 0
    assert capsys.readouterr().out == told


def test_what_has_no_winner(database, tmp_path):
    ask = lambda *words: cli.command(["label", "wins", *words])
    with pytest.raises(UserError, match="label wins needs FOLDER"):
        ask()
    with pytest.raises(UserError, match=r"nowhere: has neither labels.sqlite nor answers.json"):
        ask(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"against = 'rloo': must be of dpo, ppo, sft"):
        ask(str(tmp_path / "run"), "--against", "rloo")
    with pytest.raises(ConfigError, match=r"to = 'x.txt': must be a file named \*.json"):
        ask(str(tmp_path / "run"), "--to", "x.txt")
    alone = labeled(tmp_path / "alone", [Item("rank", "p", (OF("a", "ppo"), OF("b", "ppo")))],
                    {"anna": [[0, 1]]})  # fmt: skip
    with pytest.raises(UserError, match="compares two models: the outputs are of ppo"):
        wins.win_rates(wins.answers_of(tmp_path, alone))
    apart = [Item("rank", name, (OF("a", name), OF("b", name))) for name in ("ppo", "sft")]
    never = labeled(tmp_path / "never", apart, {"anna": [[0, 1], [0, 1]]})
    with pytest.raises(UserError, match="no prompt has outputs of two models"):
        wins.win_rates(wins.answers_of(tmp_path, never))


@pytest.mark.parametrize(
    "content, words",
    [
        ({}, "expected a list of answers, got dict"),
        ([3], "answer 0: expected an object with task, state, prompt and gold"),
        ([{"ranks": [0]}], "answer 0: expected a rank for each of its outputs"),
        ([{}, {"ranks": [True, False]}], "answer 1: expected a rank for each of its outputs"),
        ([{"outputs": [{}, {}]}], "answer 0: expected outputs with origins"),
        ([{"outputs": [3, {"origins": ["b"]}]}], "answer 0: expected outputs with origins"),
        ([{"outputs": [{"origins": ["a"]}, {"origins": [1]}]}], "answer 0: expected outputs with"),
        ([{"outputs": [{"origins": [["a"]]}, {"origins": []}]}], "answer 0: expected outputs with"),
    ],
)
def test_a_wrong_export_is_named(tmp_path, content, words):
    answer = {"task": "rank", "state": "answered", "prompt": "p", "gold": None, "ranks": [0, 1],
              "outputs": [{"origins": ["a"]}, {"origins": ["b"]}]}  # fmt: skip
    if isinstance(content, list):
        content = [answer | one if isinstance(one, dict) else one for one in content]
    (tmp_path / "answers.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=f"answers.json: {words}"):
        wins.answers_of(tmp_path)
