"""A process that calls the function of a reward term: JSON lines in, JSON lines out.

    in   {"path": sys.path, "module": "m", "function": "f"}, then one line per call,
         {"prompt", "response", "record"}
    out  {"file": where f is defined, or null} or {"failed": why}, then one line per call,
         {"score": number} or {"failed": why}

It runs as a script and imports nothing of this package, so it starts in a few hundredths of a
second and uses no devices. (multiprocessing's spawn would run the parent's main module again.)
"""

import ctypes
import importlib
import json
import math
import os
import signal
import sys

SHOWN = 200  # characters of a message
PDEATHSIG = 1  # <sys/prctl.h>


def load(module: str, name: str) -> tuple:
    """(function, the file that defines it; None if it is not in a file)."""
    function = importlib.import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    if not callable(function):
        raise TypeError(f"{name} is no function")
    home = sys.modules.get(getattr(function, "__module__", None), sys.modules[module])
    return function, getattr(home, "__file__", None)


def call(function, asked: dict) -> dict:
    """The function's result, as the line that is sent back."""
    try:
        found = function(asked["prompt"], asked["response"], asked["record"])
        number = number_of(found)
        if math.isfinite(number):
            return {"score": number}
        return {"failed": f"returned {found!r:.60}, which is no finite number"}
    except (Exception, SystemExit) as error:
        return {"failed": f"raised {told(error)}"}


def number_of(found) -> float:
    """The result as a float; NaN if it is no number. A string such as "1" is no number."""
    try:
        return math.nan if isinstance(found, str | bytes) else float(found)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def told(error: BaseException) -> str:
    """An error in one line, with file and line number where they are known."""
    import traceback

    what = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN]
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    places = [f"{os.path.basename(f.filename)}:{f.lineno}" for f in theirs if f.filename[0] != "<"]
    return f"{what} ({places[-1]})" if places else what


def main() -> None:
    if sys.platform == "linux":  # if the parent process ends, this process is killed too
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # The function's standard output goes to standard error, and its standard input is empty.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)

    def answer(line: dict) -> None:
        answers.write(json.dumps(line).encode() + b"\n")
        answers.flush()

    about = json.loads(asked.readline())
    sys.path[:] = about["path"]
    try:
        function, file = load(about["module"], about["function"])
    except (Exception, SystemExit) as error:
        answer({"failed": told(error)})
        return
    answer({"file": file})
    for line in asked:
        answer(call(function, json.loads(line)))


if __name__ == "__main__":
    main()
