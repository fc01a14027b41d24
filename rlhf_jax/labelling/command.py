"""`rlhf-jax label`: serves the page, exports the labels, tells who wins, deletes a labeler."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_jax.durable.files import in_bucket, writable_directory, write_atomically
from rlhf_jax.errors import UserError, require
from rlhf_jax.labelling import export, responses
from rlhf_jax.labelling.database import NAME, Database
from rlhf_jax.labelling.item import Item
from rlhf_jax.labelling.options import ExportLabelsOptions, LabelOptions, LabelWinsOptions
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import Store
from rlhf_jax.runs.options import parse
from rlhf_jax.runs.origin import experiment_of, is_experiment
from rlhf_jax.usage import leading_words

USAGE = ("label needs an experiment file, a run or a folder of labels, as in rlhf-jax label "
         "experiments/quickstart.py")  # fmt: skip
FOLDER = "labels"  # in a run's directory


def label(arguments: Sequence[str]) -> int:
    words = leading_words(arguments)
    options = arguments[len(words) :]
    if not words:
        raise UserError(USAGE)
    if words[0] == "export":
        return _export(words[1:], options)
    if words[0] == "wins":
        return _wins(words[1:], options)
    if words[0] == "delete":
        return _delete(words[1:], options)
    if len(words) > 1:
        raise UserError(f"{words[1]!r} belongs to no option; {USAGE}")
    if is_experiment(words[0]):
        return _label_experiment(words[0], options)
    return _label_folder(words[0], options)


def _label_experiment(experiment: str, arguments: Sequence[str]) -> int:
    from rlhf_jax.labelling.sampling import add_items  # not before: it starts jax

    config, prog = experiment_of(experiment), f"rlhf-jax label {experiment}"
    hidden = {*config.stages, "evaluators", "loop"}
    config, options = parse([config, LabelOptions()], arguments, prog, hidden=hidden)
    folder = options.to
    if folder is None:
        require(not in_bucket(config.directory), "to", None, "a folder on a local disk, because "
                f"the run is in {config.directory}")  # fmt: skip
        folder = Path(config.directory) / FOLDER
    serving = _serving(options)
    store = Store(Database(folder))
    if options.responses is None:
        add_items(config, options, store)
    _add_from_files(options, store)
    return serving(store, folder, options)


def _label_folder(folder: str, arguments: Sequence[str]) -> int:
    prog = f"rlhf-jax label {folder}"
    (options,) = parse([LabelOptions()], arguments, prog)
    require(options.to is None, "to", str(options.to), f"left out: the folder is {folder}")
    for field, value in (("stages", options.stages), ("split", options.split)):
        require(not value, field, value, "left out without an experiment file")
    if options.responses is None and not (Path(folder) / NAME).is_file():
        raise UserError(f"{folder}: has no {NAME}: give an experiment file, or --responses FOLDER")
    serving = _serving(options)
    store = Store(Database(folder))
    _add_from_files(options, store)
    return serving(store, Path(folder), options)


def _add_from_files(options: LabelOptions, store: Store) -> None:
    """Items of --responses, --gold and --write. What is there already is not added again."""
    if options.responses is not None:
        found = responses.of_folder(options.responses)
        kept = found.items[: options.rank]
        added = store.add(kept, options.each, options.overlap)
        print(f"label: {added} new prompts of {options.responses}; {found.alike} left out, because "
              f"they have no two different outputs, {len(found.items) - len(kept)} by --rank",
              flush=True)  # fmt: skip
        if options.demonstrate:
            asked = [Item("demonstrate", item.prompt) for item in found.items]
            few = len(asked[len(kept) :][: options.demonstrate])
            require(few == options.demonstrate, "demonstrate", options.demonstrate,
                    f"{few} at most: so many prompts are left beside those of --rank")  # fmt: skip
            store.add(asked[len(kept) :][:few], options.each, options.overlap)
    if options.gold is not None:
        added = store.add(responses.gold(options.gold))
        print(f"label: {added} new gold items of {options.gold}", flush=True)
    store.add([Item("write", "", number=number) for number in range(options.write)], 1, 0.0)


def _serving(options: LabelOptions) -> Callable[[Store, Path, LabelOptions], int]:
    """The function that serves; whatever it needs is checked before anything is written."""
    try:
        from rlhf_jax.labelling import serve
    except ImportError as error:
        raise UserError(f"label needs {error.name}: pip install 'rlhf-jax[label]'") from None
    serve.check(options)
    return serve.serve


def _store_of(words: Sequence[str], usage: str, count: int) -> tuple[Database, list[str]]:
    """The database of a folder of labels that exists, or of a run, and the other words."""
    if len(words) != count:
        raise UserError(usage)
    database = _database(Path(words[0]))
    if database is None:
        raise UserError(f"{words[0]}: has no {NAME}")
    return database, list(words[1:])


def _database(folder: Path) -> Database | None:
    places = [place for place in (folder, folder / FOLDER) if (place / NAME).is_file()]
    return Database(places[0]) if places else None


def _export(words: Sequence[str], arguments: Sequence[str]) -> int:
    usage = "label export needs FOLDER, a folder of labels, and --to FOLDER"
    (options,) = parse([ExportLabelsOptions()], arguments, "rlhf-jax label export FOLDER")
    database, _ = _store_of(words, usage, 1)
    if options.to is None:
        raise UserError(usage)
    made = [(options.to, export.write(database, options.to, options.merge))]
    if options.folds:
        made += export.write_folds(database, options.to, options.folds)
    for folder, exported in made:
        for name, count in exported.records.items():
            print(f"{folder / name}: {count} records")
        for why, count in exported.left_out.items():
            print(f"{folder}: left out: {count} {why}")
    if not made[0][1].records:
        print("nothing is labeled yet")
    return 0


def _wins(words: Sequence[str], arguments: Sequence[str]) -> int:
    from rlhf_jax.labelling import wins  # not before: it loads scipy

    usage = "label wins needs FOLDER, a folder of labels or of their export"
    (options,) = parse([LabelWinsOptions()], arguments, "rlhf-jax label wins FOLDER")
    if len(words) != 1:
        raise UserError(usage)
    folder = Path(words[0])
    database = _database(folder)
    if database is None and not (folder / wins.EXPORTED).is_file():
        raise UserError(f"{folder}: has neither {NAME} nor {wins.EXPORTED}")
    if options.to is not None:
        writable_directory(options.to.parent, "to")
    found = wins.win_rates(wins.answers_of(folder, database), options.against)
    for one in found:
        print(one.text())
    if options.to is not None:
        text = json.dumps(wins.as_json(found), indent=1, allow_nan=False) + "\n"
        write_atomically(options.to, text.encode())
    return 0


def _delete(words: Sequence[str], arguments: Sequence[str]) -> int:
    usage = "label delete needs FOLDER, a folder of labels, and LABELER"
    if arguments:
        raise UserError(f"{usage}, and takes no option")
    database, (name,) = _store_of(words, usage, 2)
    answers = People(database).delete(name)
    print(f"{name}: {answers} answers are deleted, with all else that was stored of {name}. "
          "Exported files still hold them: export again.")  # fmt: skip
    return 0
