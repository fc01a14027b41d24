"""docs/finetune.md: its example runs whole, on a small model with a chat template."""

import json
from pathlib import Path

from rlhf_jax import api
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.runs.experiment import load_experiment
from tests.data import dialogues
from tests.pages import parts, run_command
from tests.test_pretrained import write_published

ROOT = Path(__file__).resolve().parents[1]
PARTS = parts((ROOT / "docs" / "finetune.md").read_text(encoding="utf-8"))
SHAPE = TransformerConfig(
    vocab_size=259, layers=1, width=16, heads=2, kv_heads=1, mlp_width=24, context=512,
    positions="rotary", norm="rms", activation="swiglu", biases=False,
)  # fmt: skip
# Its tokenizer has a token for each byte.
SHRUNK = """--sft.epochs 0.2 --reward.epochs 0.1 --dpo.epochs 0.1 --ppo.iterations 1
    --ppo.batch-size 8 --ppo.minibatches 1 --ppo.prompt-length 224 --ppo.response-length 8
    --evaluation.prompt-length 224 --evaluation.response-length 8 --evaluation.most-prompts 4"""


def test_all_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    published = Path("runs/published/smollm2")
    write_published(published, SHAPE, 0)
    dialogues.write("smollm2", published)
    commands = [text for kind, text in PARTS if kind == "sh"]
    assert commands[:2] == ["pip install '.[gguf]'", "rlhf-jax fetch smollm2"]
    (code,) = [text for kind, text in PARTS if kind == "python"]
    exec(code, {})
    printed = []
    for text in commands[2:]:
        text = text.replace("experiments/", f"{ROOT}/experiments/")
        shrunk = f" {' '.join(SHRUNK.split())}" if "rlhf-jax run " in text else ""
        assert run_command(text + shrunk) == 0
        printed.append(capsys.readouterr().out)
    assert "assistant" in printed[0].replace("|", "") and "[[a|p|p|l|e|.|<|im_end|>]]" in printed[0]
    report = json.loads(Path("runs/finetune/report.json").read_text())
    assert report["policies"].keys() == {"pretrained", "sft", "dpo", "ppo"}
    assert [text.count("\n") for text in printed[2:4]] == [4, 4]
    stages = load_experiment(f"{ROOT}/experiments/finetune.py").stages
    starts = {"sft": "pretrained", "reward": "sft", "dpo": "sft", "ppo": "sft"}
    assert {name: stages[name].start for name in starts} == starts
    for stage, start in starts.items():
        about = json.loads(Path(f"runs/finetune/{stage}/model/model.json").read_text())
        assert about["trunk"]["beside"] == f"../../{start}"
    policy = api.with_chat(api.load_policy("exported/polite"))
    message = [{"role": "user", "content": "Hi"}]
    assert api.prompt_of(policy, message).endswith("Hi<|im_end|>\n<|im_start|>assistant\n")
    adapter = json.loads(Path("exported/polite_adapter/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (16, 32.0)
