"""Who gets which item, and that no answer is lost or doubled."""

import itertools
import sqlite3
import threading
from pathlib import Path

import pytest

from rlhf_jax.durable.formats import LABELS
from rlhf_jax.errors import ConfigError, UserError
from rlhf_jax.labelling import database as database_of
from rlhf_jax.labelling.database import NAME, Database, file_system, refuse_network
from rlhf_jax.labelling.item import Item, Output
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.store import LEASE, Conflict, Missing, Store, wanted

CONTENT = {"ranks": [0, 1], "scores": [7, 1], "flags": [[], []]}


class Clock:
    def __init__(self):
        self.now = 1e9

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def ranks(number: int, gold=None) -> Item:
    return Item("rank", f"p{number}", (Output("a"), Output("b")), gold)


def open_store(folder, items=(), labelers=("anna", "ben", "cleo"), **options) -> Store:
    database = Database(folder)
    People(database).register(labelers)
    store = Store(database, Clock())
    store.add(items, **options)
    return store


def answer(store: Store, person: str, content=CONTENT) -> str | None:
    """Answers the next item; its prompt."""
    found = store.next(person)
    if found is None:
        return None
    store.answer(person, found.id, "answered", content, None)
    return found.item.prompt


def test_each_item_goes_to_as_many_labelers_as_are_wanted_and_to_nobody_twice(tmp_path):
    store = open_store(tmp_path, map(ranks, range(6)), each=2)
    order = itertools.cycle(["anna", "ben", "cleo"])
    had = [(person, answer(store, person)) for person in itertools.islice(order, 30)]
    given = [(person, prompt) for person, prompt in had if prompt is not None]
    assert len(given) == len(set(given)) == 12
    for number in range(6):
        assert sum(prompt == f"p{number}" for _, prompt in given) == 2
    # One that somebody has already comes first, so that early answers overlap.
    assert [prompt for _, prompt in given[:4]] == ["p0", "p0", "p1", "p1"]


def test_a_share_of_the_items_has_two_labelers():
    assert [wanted(i, 1, 0.25) for i in range(8)] == [1, 1, 1, 2, 1, 1, 1, 2]
    assert [wanted(i, 3, 0.25) for i in range(4)] == [3] * 4
    assert [wanted(i, 1, 1.0) for i in range(3)] == [2] * 3
    assert sum(wanted(i, 1, 0.2) == 2 for i in range(1000)) == 200


def test_two_tabs_get_the_same_item_and_the_second_answer_changes_nothing(tmp_path):
    store = open_store(tmp_path, map(ranks, range(2)))
    one, two = store.next("anna"), store.next("anna")
    assert one == two
    store.answer("anna", one.id, "answered", CONTENT, 3)
    store.answer("anna", two.id, "answered", CONTENT, 9)  # sent again: nothing is stored
    for other in ({**CONTENT, "ranks": [1, 0]}, {"reason": "other", "detail": ""}):
        with pytest.raises(Conflict):
            store.answer("anna", two.id, "answered", other, 9)
    with pytest.raises(Conflict):
        store.answer("anna", two.id, "skipped", CONTENT, 9)
    kept = store.of("anna", one.id)
    assert (kept.content, kept.state) == (CONTENT, "answered")
    assert store.progress("anna").done == 1
    assert store.next("anna").item.prompt == "p1"


def test_nobody_answers_what_another_labeler_has(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    found = store.next("anna")
    for person, name in (("ben", found.id), ("anna", "unknown")):
        with pytest.raises(Missing):
            store.answer(person, name, "answered", CONTENT, None)
    assert store.next("ben") is None


def test_an_item_whose_time_is_over_goes_to_another_and_a_late_answer_is_kept(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    late = store.next("anna")
    store._clock.now += LEASE / 4
    assert store.next("ben") is None
    store._clock.now += LEASE
    assert answer(store, "ben") == "p0"
    assert store.next("anna") is None  # it is complete
    store.answer("anna", late.id, "answered", CONTENT, None)
    assert [store.progress(name).done for name in ("anna", "ben")] == [1, 1]


def test_an_item_whose_time_is_over_is_still_its_labeler_s_until_another_has_it(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    found = store.next("anna")
    store._clock.now += 2 * LEASE
    assert store.next("anna").id == found.id
    assert store.next("ben") is None


def test_a_page_that_is_opened_again_keeps_its_item_longer(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    store.next("anna")
    for _ in range(3):
        store._clock.now += 0.75 * LEASE
        assert store.next("anna") is not None
        assert store.next("ben") is None


def test_undo_opens_the_last_item_again_and_refuses_its_old_form(tmp_path):
    store = open_store(tmp_path, map(ranks, range(3)))
    first = store.next("anna")
    store.answer("anna", first.id, "answered", CONTENT, None)
    second = store.next("anna")
    store.answer("anna", second.id, "skipped", {"reason": "unclear", "detail": ""}, None)
    third = store.next("anna")
    assert store.undo("anna")
    again = store.next("anna")
    assert (again.item, again.places) == (second.item, second.places)
    assert again.id != second.id and again.content == {"reason": "unclear", "detail": ""}
    with pytest.raises(Missing):
        store.answer("anna", second.id, "answered", CONTENT, None)
    assert store.undo("anna")
    assert store.next("anna").item == first.item
    assert not store.undo("anna") and not store.undo("ben")
    left = [answer(store, "anna") for _ in range(4)]
    assert left == ["p0", "p1", third.item.prompt, None]


def test_a_skipped_item_goes_to_another_and_not_back(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    found = store.next("anna")
    store.answer("anna", found.id, "skipped", {"reason": "unclear", "detail": ""}, None)
    assert store.next("anna") is None
    assert answer(store, "ben") == "p0"


def test_gold_items_come_to_everybody_now_and_then(tmp_path):
    gold = [ranks(100 + i, (0, 1)) for i in range(3)]
    store = open_store(tmp_path, [*gold, *map(ranks, range(40))], each=2)
    for person in ("anna", "ben"):
        had = [answer(store, person) for _ in range(40)]
        places = [i for i, prompt in enumerate(had) if prompt in ("p100", "p101", "p102")]
        assert places == [5, 16, 27]
        assert len(set(had)) == 40


def test_the_time_of_an_answer_is_bounded_by_the_clock(tmp_path):
    store = open_store(tmp_path, map(ranks, range(3)))
    for counted, expected in ((5, 5.0), (10**6, 101.0), (None, 101.0)):
        found = store.next("anna")
        store._clock.now = found.given + 100.0
        before = store.progress("anna").seconds
        store.answer("anna", found.id, "answered", CONTENT, counted)
        assert store.progress("anna").seconds - before == expected
    assert store.progress("anna").median_seconds == 101.0


def test_work_without_a_break_is_counted(tmp_path):
    store = open_store(tmp_path, map(ranks, range(9)))
    for seconds in (100.0, 100.0, 400.0, 200.0):
        found = store.next("anna")
        store._clock.now = found.given + seconds - 1.0
        store.answer("anna", found.id, "answered", CONTENT, 50)
    # The last two answers, of 50 seconds each, 201 seconds apart; before them was a pause of 350.
    assert store.worked("anna", gap=300.0) == pytest.approx(201 + 50 + 1)
    store._clock.now += 301
    assert store.worked("anna", gap=300.0) == 0.0


def test_the_same_items_are_added_once(tmp_path):
    store = open_store(tmp_path, map(ranks, range(3)))
    assert store.add(map(ranks, range(5)), source="again") == 2
    assert store.count() == 5
    assert store.has_batch("again") and not store.has_batch("other")


def test_two_processes_and_many_threads_never_double_an_item(tmp_path):
    """Two stores on one file stand for two processes: SQLite's locks do not know of one another's
    connections."""
    stores = [open_store(tmp_path, map(ranks, range(12)), each=1), open_store(tmp_path)]
    had, start = [], threading.Barrier(6)

    def work(number: int) -> None:
        person = ("anna", "ben", "cleo")[number % 3]
        start.wait()
        while True:
            try:
                prompt = answer(stores[number % 2], person)
            except Conflict:  # the other tab was faster
                continue
            if prompt is None:
                return
            had.append((person, prompt))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Two tabs of one person may both be told that the same answer is stored.
    assert len({prompt for _, prompt in had}) == 12
    assert len(set(had)) == 12
    count = "SELECT count(*) FROM assignments WHERE state = 'answered'"
    assert sqlite3.connect(tmp_path / NAME).execute(count).fetchone() == (12,)


def test_the_file_itself_refuses_a_second_assignment_of_an_item(tmp_path):
    store = open_store(tmp_path, [ranks(0)])
    store.next("anna")
    copy = (
        "INSERT INTO assignments (id, item, person, state, places, given, until) "
        "SELECT 'other', item, person, state, places, given, until FROM assignments"
    )
    with (
        pytest.raises(sqlite3.IntegrityError, match="UNIQUE"),
        store.database.writing() as connection,
    ):
        connection.execute(copy)
    assert store.progress("anna").left == 1


def test_a_labeler_s_data_are_deleted_without_a_trace(tmp_path):
    store = open_store(tmp_path, [Item("demonstrate", f"p{i}") for i in range(2)])
    people = People(store.database)
    for person, text in (("anna", "an unmistakable secret"), ("ben", "what stays")):
        found = store.next(person)
        store.answer(person, found.id, "answered", {"text": text}, None)
    assert people.delete("anna") == 1
    bytes_of = lambda: b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"unmistakable" not in bytes_of() and b"anna" not in bytes_of()
    assert b"what stays" in bytes_of()
    assert people.names() == ["ben", "cleo"]
    assert store.next("cleo").item.prompt == "p0"  # it waits for a labeler again
    for name in ("anna", "owner"):
        with pytest.raises(UserError, match=f"no labeler '{name}'; labelers are ben, cleo"):
            people.delete(name)


def test_the_file_is_durable_and_private(tmp_path):
    store = open_store(tmp_path)
    with store.database.reading() as connection:
        settings = {name: connection.execute(f"PRAGMA {name}").fetchone()[0]
                    for name in ("journal_mode", "synchronous", "foreign_keys", "secure_delete",
                                 "user_version")}  # fmt: skip
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1,
                        "secure_delete": 1, "user_version": LABELS.now}  # fmt: skip
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600


def test_files_that_are_not_ours_are_refused_and_stay(tmp_path):
    later, other, text = (tmp_path / name for name in ("later", "other", "text"))
    for folder, statement in ((later, "PRAGMA user_version = 99"), (other, "CREATE TABLE a (b)")):
        folder.mkdir()
        with sqlite3.connect(folder / NAME) as connection:
            connection.execute(statement)
        connection.close()
    text.mkdir()
    (text / NAME).write_text("no database at all, " * 100)
    before = [(folder / NAME).read_bytes() for folder in (later, other, text)]
    for folder, message in ((later, "by a later version"), (other, "format 0, here 1 to"),
                            (text, "not a database")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            Database(folder)
    assert [(folder / NAME).read_bytes() for folder in (later, other, text)] == before


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/disk xfs rw 0 0
//nas/a /mnt/with\\040space cifs rw 0 0
bucket /mnt/bucket fuse.gcsfuse rw 0 0
/dev/sdc /mnt/windows fuseblk rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind", "refused"),
    [
        ("/work/labels", "ext4", False),
        ("/home/anna", "nfs4", True),
        ("/home/disk/labels", "xfs", False),
        ("/homes", "ext4", False),
        ("/mnt/with space/labels", "cifs", True),
        ("/mnt/bucket", "fuse.gcsfuse", True),
        ("/mnt/windows", "fuseblk", False),
    ],
)
def test_a_network_file_system_is_refused(path, kind, refused):
    assert file_system(Path(path), MOUNTS) == kind
    if refused:
        with pytest.raises(ConfigError, match=f"on a network file system, {kind}"):
            refuse_network(Path(path), MOUNTS)
    else:
        refuse_network(Path(path), MOUNTS)


def test_a_database_asks_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(database_of, "file_system", lambda path, mounts: "nfs")
    with pytest.raises(ConfigError, match="network file system, nfs"):
        Database(tmp_path / "labels")
    assert not (tmp_path / "labels").exists()
