"""Package metadata and extras; tools' settings live in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
setup(
    name="rlhf-jax",
    version="0.1.0",
    description="Reinforcement learning from human feedback (InstructGPT) in JAX and Flax",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["rlhf_jax", "rlhf_jax.*"]),
    package_data={"rlhf_jax.labelling": ["templates/*.html", "static/*"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "etils[epath]>=1.9",
        "orbax-checkpoint>=0.12",
        "chex>=0.1.90",
        "grain>=0.2.18",
        "tensorflow-datasets>=4.9.10",
        "sentencepiece>=0.2",
        "tokenizers>=0.21",
        "jinja2>=3.1.6",
        "tensorboardX>=2.6",
        "tyro>=0.9",
        "rich>=13",
        "matplotlib>=3.8",
        "numpy>=1.26",
        "scipy>=1.11",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "ruff>=0.6",
            "rlax>=0.1.8",
            "jupytext>=1.16",
            "safetensors>=0.4",
            "gguf>=0.10",
            "pyarrow>=14",
            "zstandard>=0.22",
            "krippendorff>=0.6",
            "statsmodels>=0.14",
            "starlette>=0.40",
            "uvicorn>=0.30",
            "playwright>=1.40",  # drives a browser that is there already, such as Debian's chromium
        ],
        "notebooks": ["ipykernel>=6.29", "jupytext>=1.16", "nbclient>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],  # rlhf-jax plan needs it too, on any machine
        "cuda": ["jax[cuda12]>=0.10"],
        "mutation": ["cosmic-ray>=8.7"],  # a sample of edits that the tests should notice
        "wandb": ["wandb>=0.18"],
        "gguf": ["gguf>=0.10"],  # to read GGUF files, and for rlhf-jax fetch
        "data": ["pyarrow>=14", "zstandard>=0.22"],  # Parquet and .zst files of data sets
        "label": ["starlette>=0.40", "uvicorn>=0.30"],  # the labelling page
        "lm-eval": ["lm_eval>=0.4.9"],  # rlhf-jax lm-eval; it brings PyTorch
        "hub": ["huggingface_hub>=0.23"],  # hub:OWNER/NAME/FILE, and pretrained="OWNER/NAME"
        # For runs in gs://: epath's and, of google's, Orbax's.
        "gcs": ["gcsfs>=2024.2", "google-cloud-storage>=2", "google-cloud-storage-control>=1"],
    },
    entry_points={"console_scripts": ["rlhf-jax = rlhf_jax.cli:start"]},
)
