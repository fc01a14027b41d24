"""The labelling page in processes that can be killed.

    python -m tests.faults.label_server FOLDER

Imports once, binds a port and prints it. Each line of standard input forks a process that serves
the folder, whose id is printed.
"""

import os
import sys

from rlhf_jax.labelling.database import Database
from rlhf_jax.labelling.serve import listen, origins_of, server


def main(folder: str) -> None:
    listening = listen("127.0.0.1", 0)
    listening.listen(64)  # who connects between two processes waits for the second
    port = listening.getsockname()[1]
    database = Database(folder)
    server(database, []).config.load()  # imports what a server does
    database.close()  # a connection must not be there in two processes
    print(port, flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            server(Database(folder), origins_of("127.0.0.1", port, tls=False)).run([listening])
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
