"""`rlhf-jax export`: a finished model as a folder that `transformers` loads. `rlhf-jax fetch`."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from etils import epath

from rlhf_jax.data.about import ORIGIN
from rlhf_jax.data.tokenizer import Tokenizer, find_tokenizer, load_tokenizer
from rlhf_jax.durable import manifest, taken
from rlhf_jax.durable.fingerprint import stored
from rlhf_jax.durable.model_files import finished, load_model, read_about
from rlhf_jax.errors import UserError, require
from rlhf_jax.evaluation.summary import SECTIONS
from rlhf_jax.generation.ending import Ending
from rlhf_jax.models.config import TransformerConfig
from rlhf_jax.published import adapter, card, hub, kept, saving, tokenizer_files
from rlhf_jax.published.fetch import FetchOptions, fetch
from rlhf_jax.runs.experiment import PRETRAINED
from rlhf_jax.runs.models import Models, base_of
from rlhf_jax.runs.options import parse
from rlhf_jax.runs.reading import ending_of
from rlhf_jax.sources.corpora import COUNTS
from rlhf_jax.strict_json import read_json
from rlhf_jax.usage import leading_words


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Options of the export command."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # number format of the files
    largest: float = 5.0  # GiB of a file at most; a larger model has several files and an index
    adapter: bool = False  # writes the adapter alone, as a folder that peft loads

    def __post_init__(self):
        require(self.largest > 0, "largest", self.largest, "positive")


def export(run: epath.PathLike, stage: str, to: epath.PathLike, options: ExportOptions) -> Path:
    """Writes the model of a finished stage of a run into a new folder, and returns its path.

    The folder has config.json, model.safetensors, tokenizer.json, tokenizer_config.json (with the
    chat template), generation_config.json and README.md. A reward model is one with a single label.
    An adapter is merged into its trunk.
    Raises UserError where the stage has no finished model, no family of transformers has such a
    shape, or the folder is not empty.
    """
    run = epath.Path(run)
    directory = finished(run, stage)
    if options.adapter:
        return export_adapter(run, stage, to, options)
    folder = saving.new_folder(to, "FOLDER")
    scorer = read_about(directory / "model")["kind"] == "score"
    file = find_tokenizer(taken.followed(run / "data"))
    tokenizer = load_tokenizer(file)
    kind = "score" if scorer else "policy"
    params = Models().trunk(directory / "model", kind, tokenizer.fingerprint)
    config = stored(directory)
    trained = dataclasses.replace(read_about(directory / "model")["model"], lora=None)
    shape, notes = with_published_context(trained, run, config)
    ending = Ending.of(tokenizer, ending_of(directory))
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id,
           "eos_token_id": ends(ending)}  # fmt: skip
    told = saving.write_model(
        folder, shape, params, scorer,
        dtype=options.dtype, largest=int(options.largest * saving.GIB), fields=ids,
    )  # fmt: skip
    notes += tokenizer_files.write(folder, file, tokenizer, shape.context)
    if not scorer:
        saving.write_generation(folder, ids, temperature_of(config, stage))
    if stage != PRETRAINED:  # whose model was not trained here
        notes += _notes(tokenizer, ending, told)
    counts = read_json(run / "data" / COUNTS)
    origin = counts.get(ORIGIN, {})
    about = card.Card(
        stage=stage,
        scorer=scorer,
        architecture=told.architecture,
        parameters=sum(x.size for x in jax.tree.leaves(params)),
        dtype=options.dtype,
        config=config,
        records=counts,
        licences=origin.get("licences", {}),
        tests=origin.get("test_sets", ()),
        figures=figures(run, stage, scorer),
        versions=manifest.versions(),
        notes=notes,
        base=base_model(run, config),
    )
    (folder / "README.md").write_text(card.text(about))
    for note in notes:
        print(f"{stage}: {note}")
    return Path(saving.finish(folder))


def export_adapter(run: epath.Path, stage: str, to: epath.PathLike, options: ExportOptions) -> Path:
    """Writes the adapter of a finished stage into a new folder that `peft` loads, and returns its
    path.

    Raises UserError as `export` does, and where the model of the stage is no adapter.
    """
    place = finished(run, stage) / "model"
    about = read_about(place)
    if about["trunk"] is None:
        raise UserError(f"{place}: holds a whole model, no adapter: leave --adapter out")
    folder = saving.new_folder(to, "FOLDER")
    scorer, base = about["kind"] == "score", base_of(place).name
    shape, params = load_model(place, about["kind"], about["tokenizer"])
    published = base_model(run, stored(place.parent))
    model = base
    if base == PRETRAINED and published is not None and published.name is not None:
        model = base if published.name.endswith(".gguf") else published.name
    bias = adapter.write_adapter(folder, shape, params, scorer, model, options.dtype)
    notes = [f"The adapter lies on the model of the stage {base}: rlhf-jax export {run} {base} "
             "FOLDER writes it."]  # fmt: skip
    if bias:
        notes.append(f"Add {bias!r} to the scores: transformers' class has no bias.")
    front = [] if published is None else published.front()
    head = ["---", "library_name: peft", *front, "---", f"# {stage}", ""]
    if published is not None:
        notes.append(published.sentence())
    code = card.adapter_code(model, scorer) + "\n"
    (folder / "README.md").write_text("\n\n".join(["\n".join(head[:-1]), *notes, code]))
    for note in notes:
        print(f"{stage}: {note}")
    return Path(saving.finish(folder))


def with_published_context(
    shape: TransformerConfig, run: epath.Path, config: Mapping[str, Any]
) -> tuple[TransformerConfig, list[str]]:
    """(the shape to export, sentences): a model that was trained with a part of the published
    context has the whole again, where it has no parameters of positions.

    config: of the stage, as JSON values.
    """
    found = kept.of(taken.followed(run / PRETRAINED)) if PRETRAINED in config else None
    if found is None or found.shape().context <= shape.context:
        return shape, []
    most, published = shape.context, found.shape().context
    if shape.positions == "learned":
        return shape, [f"The published context of {published} tokens was cut to {most}."]
    return dataclasses.replace(shape, context=published), [
        f"The run read at most {most} tokens (model.context); config.json has the published "
        f"context of {published}."
    ]


def base_model(run: epath.Path, config: Mapping[str, Any]) -> card.Base | None:
    """The published model that a stage of a run was trained from; None: there is none.

    config: of the stage, as JSON values.
    """
    if PRETRAINED not in config:
        return None
    found = kept.of(taken.followed(run / PRETRAINED))
    if found is None:  # a run of an earlier version
        return card.Base(None, config[PRETRAINED])
    name, origin = found.about["name"], found.origin()
    on_hub = name if hub.is_name(name) and not epath.Path(name).exists() else origin.base_model
    return card.Base(name, found.digest(), origin.licence, on_hub)


def temperature_of(config: Mapping[str, Any], stage: str) -> float:
    """The temperature at which a stage sampled in training; 1 of a stage that did not sample.

    config: of the stage, as JSON values.
    """
    return config.get("stages", {}).get(stage, {}).get("temperature", 1.0)


def ends(ending: Ending) -> int | list[int]:
    """The ids that end a response."""
    return ending.eos if ending.stop is None else [ending.eos, ending.stop]


def _notes(tokenizer: Tokenizer, ending: Ending, told: saving.Exported) -> list[str]:
    named = lambda i: f"`{tokenizer.token_of(i)}` ({i})"
    begins = f"began with the token {named(tokenizer.bos_id)}"
    begins = "was the text of the chat template" if tokenizer.chat else begins
    found = [
        f"In training each prompt {begins} and was followed by the response, which ends with the "
        f"token {named(ending.end)}."
    ]
    if told.score_bias:
        found.append(f"{told.architecture} has no bias: add {told.score_bias!r} to its scores "
                     f"({saving.SCORE_BIAS} in config.json).")  # fmt: skip
    if ending.stop_after:
        found.append(f"In training the token {named(ending.stop)} ended a response from token "
                     f"{ending.stop_after + 1} on only.")  # fmt: skip
    return found


def figures(run: epath.Path, stage: str, scorer: bool) -> list[tuple[str, str]]:
    """(title, value) of each column that the run's report has of the stage's model."""
    if not (run / "report.json").is_file():
        return []
    report = read_json(run / "report.json")
    section = SECTIONS["score" if scorer else "policy"]
    columns = report.get("columns", {}).get(section, {})
    values: Mapping[str, Any] = report.get(section, {}).get(stage, {})
    return [(_title(columns, name), _shown(value)) for name, value in values.items()
            if name != "groups" and value is not None]  # fmt: skip


def _title(columns: Mapping[str, Any], name: str) -> str:
    return " ".join(str(columns.get(name, {}).get("title", name)).split())


def _shown(value: Any) -> str:
    if isinstance(value, dict) and isinstance(value.get("mean"), float):
        low, high = value.get("low"), value.get("high")
        bounds = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
        return f"{value['mean']:.4g}{bounds}"
    return f"{value:.4g}" if isinstance(value, float) else json.dumps(value)


def export_command(arguments: Sequence[str]) -> int:
    words = _words(arguments, 3, 3, "export needs RUN STAGE FOLDER, as in rlhf-jax export "
                   "runs/quickstart ppo exported/ppo")  # fmt: skip
    options = parse([ExportOptions()], arguments[3:], "rlhf-jax export RUN STAGE FOLDER")[0]
    print(export(*words, options))
    return 0


def fetch_command(arguments: Sequence[str]) -> int:
    words = _words(arguments, 1, 2, "fetch needs MODEL, as in rlhf-jax fetch smollm2")
    options = parse([FetchOptions()], arguments[len(words) :], "rlhf-jax fetch MODEL")[0]
    print(fetch(words[0], Path(words[1]) if words[1:] else None, options))
    return 0


def _words(arguments: Sequence[str], least: int, most: int, usage: str) -> list[str]:
    """The words before the first option. Raises UserError where there are too few or too many."""
    found = leading_words(arguments)
    if not least <= len(found) <= most:
        raise UserError(usage)
    return found
