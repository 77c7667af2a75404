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
    for fused reductions or names a file of flags.
    """
    if not KNOWN[0] <= jax.__version_info__[:2] <= KNOWN[1]:
        return
    flags = os.environ.get("XLA_FLAGS", "").strip()
    given, faulty = re.search(rf"{FUSIONS}=(\S*)", flags), jaxlib_version() in FAULTY
    if given is not None:
        if faulty and fuses_reductions(given[1]):
            _warn("XLA_FLAGS asks for fused reductions: set")
    elif flags and not flags.startswith("-"):  # XLA takes it for a file's name, with what is added
        if faulty:
            _warn("XLA_FLAGS names a file: add to what it holds, or set,")
    elif not devices_started():
        os.environ["XLA_FLAGS"] = f"{flags} {SAFE}".lstrip()
    elif faulty:
        _warn("jax started its devices before jaxgen was imported: import jaxgen first, or set")


def fuses_reductions(value: str) -> bool:
    """Whether a value of the flag has reductions fused. Signed parts change XLA's default, which has them, and others
    replace it."""
    parts = [part.upper().replace("LIBRARY_FUSION_TYPE_", "") for part in value.split(",") if part]
    if parts and all(part[0] in "+-" for part in parts):
        return "-REDUCE" not in parts
    return "REDUCE" in parts or "+REDUCE" in parts


def jaxlib_version() -> tuple[int, int, int]:
    """The compiler's version, which may be another than that of jax."""
    major, minor, patch = jaxlib.version.__version_info__[:3]
    return major, minor, patch


def _warn(why: str) -> None:
    message = f"jaxlib {jaxlib.version.__version__} sums wrongly on CPUs, and {why} XLA_FLAGS={SAFE}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def devices_started() -> bool:
    """Whether jax has started its devices, after which XLA_FLAGS changes nothing. Starts none itself."""
    # The only public sign: the number of CPU devices can be changed until then.
    count = jax.config.jax_num_cpu_devices  # pyright: ignore[reportAttributeAccessIssue]: options are set at run time
    try:
        jax.config.update("jax_num_cpu_devices", max(count, 0) + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)
    return False
