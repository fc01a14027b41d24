"""How the tests compile: quickly, as they compile for longer than they compute."""

from importlib.metadata import version

ONE_PIECE = "--xla_cpu_parallel_codegen_split_count=1"
# Takes half of the time to compile, and rounds otherwise. Later versions have only one emitter.
EMITTER = "--xla_cpu_use_fusion_emitters=false" * version("jaxlib").startswith("0.10.")


def xla_flags(devices: int = 1, emitter: str = EMITTER) -> str:
    """XLA_FLAGS of a process with so many simulated devices."""
    simulated = f"--xla_force_host_platform_device_count={devices}"
    return " ".join([simulated, ONE_PIECE, emitter])
