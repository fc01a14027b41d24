"""Files of data sets on the Hugging Face hub: hub:OWNER/NAME/FILE."""

from pathlib import Path

from rlhf_jax.errors import UserError

HUB = "hub:"


def download(name: str) -> Path:
    """The file "hub:OWNER/NAME/FILE", downloaded into the hub's cache.

    Raises UserError where the name has another form or the file cannot be had; the message lists
    files of the data set if the name has no FILE.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"{name}: needs huggingface_hub: pip install 'rlhf-jax[hub]'") from None
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repository, _, file = rest.partition("/")
    if not owner or not repository:
        raise UserError(f"{name}: expected hub:OWNER/NAME/FILE")
    where = {"repo_id": f"{owner}/{repository}", "repo_type": "dataset"}
    try:
        if not file:
            there = huggingface_hub.HfApi().list_repo_files(**where)
            listed = ", ".join(sorted(there)[:20])
            raise UserError(f"{name}: expected hub:OWNER/NAME/FILE with one of {listed}")
        return Path(huggingface_hub.hf_hub_download(filename=file, **where))
    except UserError:
        raise
    except Exception as error:  # of the hub, of requests, of the disk
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{name}: cannot be fetched: {first}") from None
