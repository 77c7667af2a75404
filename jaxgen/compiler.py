"""The flags that XLA compiles CPU programs with, chosen before jax starts its devices.

jaxlib 0.10.2 sums wrongly on x86 CPUs: it hands fused reductions to YNNPACK, whose blocks then miss rows or read past
the end. docs/compiler.md lists the faults known to us, with the versions in which each was seen and mended.
"""

import os
import re
import warnings

import jax
import jaxlib

# Of what XLA can hand to YNNPACK, single matrix products alone. Without reductions sums are right where jaxlib is
# faulty; without convolutions the weight gradients of wide layers are several times faster everywhere.
FUSIONS = "xla_cpu_experimental_ynn_fusion_type"
SAFE = f"--{FUSIONS}=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"

# A flag that XLA does not know ends the process, so it is set only where it was tried: benchmarks/compiler.py.
KNOWN = ((0, 10), (0, 12))
FAULTY = ((0, 10, 2), (0, 11, 0))


def choose_flags() -> None:
    """Adds SAFE to XLA_FLAGS unless a value of the same flag is there.

    Warns once where jaxlib is one of FAULTY and sums stay wrong: jax has started its devices already, or XLA_FLAGS asks
    for fused reductions.
    """
    if not KNOWN[0] <= jax.__version_info__[:2] <= KNOWN[1]:
        return
    flags = os.environ.get("XLA_FLAGS", "")
    given = re.search(rf"{FUSIONS}=(\S*)", flags)
    faulty = jaxlib_version() in FAULTY
    if given is None:
        if not devices_started():
            os.environ["XLA_FLAGS"] = f"{flags} {SAFE}".lstrip()
        elif faulty:
            _warn("jax started its devices before jaxgen was imported: import jaxgen first, or set")
    elif faulty and re.search(r"(?<!-)(LIBRARY_FUSION_TYPE_)?REDUCE", given[1], re.IGNORECASE):
        _warn("XLA_FLAGS asks for fused reductions: set")


def jaxlib_version() -> tuple[int, int, int]:
    """The compiler's version, which may be another than that of jax."""
    return jaxlib.version.__version_info__[:3]


def _warn(why: str) -> None:
    message = f"jaxlib {jaxlib.version.__version__} sums wrongly on CPUs, and {why} XLA_FLAGS={SAFE}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def devices_started() -> bool:
    """Whether jax has started its devices, after which XLA_FLAGS changes nothing. Starts none itself."""
    # The only public sign: the number of CPU devices can be changed until then.
    count = jax.config.jax_num_cpu_devices
    try:
        jax.config.update("jax_num_cpu_devices", max(count, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False
