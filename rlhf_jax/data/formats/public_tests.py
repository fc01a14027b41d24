# ruff: noqa: E501
"""Files that are public as test sets, by sha256, so that they are known under any name."""

PUBLIC_TESTS = {
    "ebfaaed21162a4de120ae85366075b34425e2a6303fac59b99555002f7016f03": "hh-rlhf/harmless-base/test.jsonl.gz",
    "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14": "gsm8k/test.jsonl",
    "cc154f9067c7382d7ea86f8f246511a5e1ac87e1fddd845c5938d789505b07a4": "pandalm/testset-v1.json",
    "170fef9eb10de404cdb3e2d9c6e3fab5cf656d47bd199cd6b368509e5bfc2967": "pandalm/testset-inference-v1.json",
    "fdefc51dae186097b35d09af1e9e355c19e422d4291a9899d2e7adcc87024f02": "squality/human-eval/all-responses.jsonl",
    "5a485f30edebd16367427997ae82fac47bcd9ada9e7755c70a7d6569c0668c9c": "squality/v1-3/txt/test.jsonl",
    "fe6655dfeec99d04d582692767c736f2385b5e067f0b894d1b73a32af7be9c9e": "hhh_alignment/hhh_alignment_eval.json",
    "b8d8ef1e12f98b4f2a9f47abc9765da0640b182b6c5d9b92f0c1a1f2f1e02e5c": "truthfulqa/TruthfulQA.csv",
    "8e81d9f0dc592e26fb0d37106126e489d39ac75099828b1f2c8142f3ede60c6b": "truthfulqa/data/finetune_truth.jsonl",
    "c90d853454fd48c676accb33e16923ac438dbb6fb37ecc7c6a70e33c9e556e87": "truthfulqa/data/mc_task.json",
    "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7": "mt_bench/question.jsonl",
    "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49": "ifeval/input_data.jsonl",
    "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a": "xstest/xstest_prompts.csv",
    "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef": "humaneval/HumanEval.jsonl.gz",
    "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e": "self-instruct/user_oriented_instructions.jsonl",
    "f7127b7aa78104cb8e03a2b1b3ac0077e95b125714dd441a8ee63666145a3375": "llmbar/LLMBar/Natural/dataset.json",
    "1002425f73c2cf54b6e6de99bce3f6c60fa2a17d13194772e37d7481c1351d42": "llmbar/LLMBar/Adversarial/GPTInst/dataset.json",
    "1ff56e520d7607750a9866a3be0f5b850392ca4477a1f69d80f32bd3e310f561": "llmbar/LLMBar/Adversarial/GPTOut/dataset.json",
    "0d9598769a39cdbbd265778c37e49939d41d5f76dcfb17bd75dcfa07516d3837": "llmbar/LLMBar/Adversarial/Manual/dataset.json",
    "6712c7eda6342602e0bc7c06c282fa95e2110d4e741a284026a62d937f9780a0": "llmbar/LLMBar/Adversarial/Neighbor/dataset.json",
}
