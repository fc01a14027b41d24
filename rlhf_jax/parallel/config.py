"""How a run is spread over devices and processes. It does not change what is computed."""

import dataclasses
from typing import Literal

from rlhf_jax.errors import require

AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """The mesh, the runner and the processes of a run; all of them may change when a run resumes.

    runner       "jit": the state is cut over a mesh of data x fsdp x tensor devices;
                 "pmap": every device holds the whole state and its share of the rows
    fsdp         devices over which parameters, optimizer and averages are cut along the width
    tensor       devices over which heads, feed-forward width and KV cache are cut
                 (data = devices / (fsdp x tensor); rows are cut over data and fsdp)
    coordinator  "host:port" of process 0 in a run of several processes; "auto" asks the cluster
                 (Cloud TPU, GKE, SLURM, Open MPI); None: one process
    processes    the number of processes; only with "host:port"
    process      the number of this process, from 0; only with "host:port"
    heartbeat    a process that sends no heartbeat for so many seconds counts as dead
    compile_cache  the folder in which compiled programs are kept for later commands; "auto":
                 rlhf_jax in the user's cache directory, or the folder that
                 JAX_COMPILATION_CACHE_DIR names; None: each command compiles anew
    deterministic  on GPUs a run gives the same bits whenever it is repeated or resumed, at some
                 cost: XLA uses no kernel that sums in an order that varies, and keeps its programs
                 and its choice of kernels in the run's directory. CPUs and TPUs need no such field
    """

    runner: Literal["jit", "pmap"] = "jit"
    fsdp: int = 1
    tensor: int = 1
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    heartbeat: int = 30
    compile_cache: str | None = AUTO
    deterministic: bool = False

    def __post_init__(self):
        require(self.runner in ("jit", "pmap"), "runner", self.runner, "'jit' or 'pmap'")
        for field in ("fsdp", "tensor", "heartbeat"):
            require(getattr(self, field) > 0, field, getattr(self, field), "positive")
        folder, allowed = self.compile_cache, "a folder of a disk, 'auto' or None"
        local = folder is None or (folder and "://" not in folder)
        require(local, "compile_cache", folder, allowed)
        if self.runner == "pmap":
            cut = (self.fsdp, self.tensor)
            require(cut == (1, 1), "(fsdp, tensor)", cut, "(1, 1) under pmap, which cuts rows only")
        named = self.coordinator not in (None, AUTO)
        if named:
            ok = ":" in self.coordinator
            require(ok, "coordinator", self.coordinator, "'host:port', 'auto' or None")
            known = self.processes is not None and self.process is not None
            require(known, "(processes, process)", (self.processes, self.process),
                    "both given beside a coordinator's 'host:port'")  # fmt: skip
            inside = 0 <= self.process < self.processes
            require(inside, "process", self.process, f"0 to processes - 1 = {self.processes - 1}")
        else:
            both = (self.processes, self.process)
            require(both == (None, None), "(processes, process)", both,
                    "None without a coordinator's 'host:port'")  # fmt: skip
