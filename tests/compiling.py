"""How the tests compile: quickly, as they compile for longer than they compute."""

from importlib.metadata import version

FASTEST = ["--xla_cpu_parallel_codegen_split_count=1"]
if version("jaxlib").startswith("0.10."):  # later versions have only this emitter
    FASTEST.append("--xla_cpu_use_fusion_emitters=false")  # takes half of the time to compile


def xla_flags(devices: int = 1) -> str:
    """XLA_FLAGS of a process with so many simulated devices."""
    return " ".join([f"--xla_force_host_platform_device_count={devices}", *FASTEST])
