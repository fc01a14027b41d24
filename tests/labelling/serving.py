"""A server in a thread of this process, for tests that need a network."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.item import Item
from rlhf_jax.labelling.people import People
from rlhf_jax.labelling.serve import listen, origins_of, server
from rlhf_jax.labelling.store import Store


@contextlib.contextmanager
def served(
    folder, items: Iterable[Item] = (), labelers: Sequence[str] = ("anna", "ben"), **options
) -> Iterator[tuple[str, dict[str, str], Store]]:
    """(address, tokens by name, store) while a server runs on a free port.

    labelers: none named: the page needs no token. options: of Store.add.
    """
    database = Database(folder)
    store = Store(database)
    tokens = People(database).register(labelers)
    store.add(items, **options)
    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    running = server(database, origins_of("127.0.0.1", port, tls=False))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", tokens, store
    finally:
        running.should_exit = True
        thread.join()
        database.close()
