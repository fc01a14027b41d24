"""`rlhf-jax lm-eval`: the harness' requests by a policy made by hand, and the harness itself where
it is installed."""

import json

import pytest

from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.runs import lm_eval
from rlhf_jax.runs.lm_eval import LmEvalOptions, generate_until, loglikelihood, measure
from rlhf_jax.runs.measured import Named
from tests.evaluation.benchmarks.by_hand import ByHand


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation():
    policy = ByHand(log_prob=lambda prompt, text: -float(len(text)))
    found = loglikelihood(policy, [("a b ", "c"), ("", "dd"), ("x\n", " y")])
    assert found == [(-2.0, False), (-2.0, False), (-3.0, False)]
    assert policy.asked == [("a b", " c"), ("", "dd"), ("x", "\n y")]


def test_answers_are_grouped_by_how_they_are_sampled():
    calls = []

    class Recording(ByHand):
        def answers(self, prompts, **how):
            calls.append((list(prompts), how))
            return super().answers(prompts, **how)

    policy = Recording(says=lambda prompt: f"{prompt} one\n\ntwo. three")
    asked = [
        ("a", {"until": ["\n\n"]}),
        ("b", {"until": "two", "max_gen_toks": 7, "do_sample": False, "temperature": 0.7}),
        ("c", {"until": ["\n\n", ""]}),
        ("d", {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 3}),
    ]
    assert generate_until(policy, asked, 9) == [
        "a one", "b one\n\n", "c one", "d one\n\ntwo. three"
    ]  # fmt: skip
    assert [prompts for prompts, _ in calls] == [["a", "c"], ["b"], ["d"]]
    how = [how for _, how in calls]
    assert [each["most_tokens"] for each in how] == [9, 7, 9]
    assert [each["ids"] for each in how] == [["0", "2"], ["1"], ["3"]]
    assert how[0]["stops"] == ("\n\n",) and how[2]["stops"] == ()
    sampled = [each["sampling"] for each in how]
    assert [s.temperature for s in sampled] == [0.0, 0.0, 0.7]
    assert (sampled[2].top_p, sampled[2].top_k) == (0.9, 3)
    with pytest.raises(UserError, match="num_beams = 4: rlhf_jax knows do_sample, max_gen_toks"):
        generate_until(policy, [("a", {"num_beams": 4})], 9)


def named(policy):
    return Named("by_hand", "policy", "digest", "here", 64, lambda batch_size: policy)


def test_what_cannot_be_run_is_said(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match=r"tasks = .*: must be one name"):
        measure(named(ByHand()), LmEvalOptions())
    with pytest.raises(ConfigError, match="include = '/nowhere': must be a folder"):
        LmEvalOptions(include=tmp_path.__class__("/nowhere"))
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"needs lm_eval, .*pip install 'rlhf-jax\[lm-eval\]'"):
        measure(named(ByHand()), LmEvalOptions(tasks=("x",)))
    with pytest.raises(UserError, match=r"lm-eval needs EXPERIMENT.py"):
        lm_eval.lm_eval_command(["--tasks", "x"])


CHOICES = """\
task: rlhf_jax_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_target: "{{{{gold}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
"""
ANSWERS = """\
task: rlhf_jax_answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{q}}}}"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["."], max_gen_toks: 8}}
metric_list: [{{metric: exact_match}}]
"""
ROLLING = """\
task: rlhf_jax_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{q}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.mark.slow
def test_the_harness_measures_own_tasks_without_a_network(tmp_path, monkeypatch):
    """An oracle has accuracy 1; one that says the first choice has the share of items whose first
    choice is right."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    items = [{"q": f"q{i}", "choices": ["no", "yes", "so"], "gold": i % 3} for i in range(12)]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in items))
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, text in {"a": CHOICES, "b": ANSWERS, "c": ROLLING}.items():
        (tasks / f"{name}.yaml").write_text(text.format(file=file))
    right = {item["q"]: item["choices"][item["gold"]] for item in items}
    question = lambda prompt: prompt.removeprefix("Q: ").removesuffix("\nA:")
    oracle = ByHand(
        log_prob=lambda p, text: -1.0 if text.strip() == right.get(question(p)) else -5.0,
        says=lambda p: right[p] + ". And more",
    )
    options = LmEvalOptions(
        tasks=("rlhf_jax_choices", "rlhf_jax_answers", "rlhf_jax_rolling"),
        include=tasks, to=tmp_path / "out.json",
    )  # fmt: skip
    found = measure(named(oracle), options)["results"]
    assert found["rlhf_jax_choices"]["acc,none"] == 1.0
    assert found["rlhf_jax_answers"]["exact_match,none"] == 1.0
    # Each document is one word of log p = -5.
    assert found["rlhf_jax_rolling"]["word_perplexity,none"] == pytest.approx(148.413, rel=1e-4)
    assert json.loads((tmp_path / "out.json").read_text())["model"] == "by_hand"
    first = ByHand(log_prob=lambda p, text: -1.0 if text.strip() == "no" else -5.0)
    one = LmEvalOptions(tasks=("rlhf_jax_choices",), include=tasks, limit=6)
    found = measure(named(first), one)["results"]
    assert found["rlhf_jax_choices"]["acc,none"] == pytest.approx(2 / 6)
    with pytest.raises(UserError, match="the harness has no task 'nothing'"):
        measure(named(first), LmEvalOptions(tasks=("nothing",), include=tasks))
