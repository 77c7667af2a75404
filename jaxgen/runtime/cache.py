"""The user's cache folder: compiled programs and features of real data."""

import os
import stat
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder of jaxgen: $JAXGEN_CACHE, or ~/.cache/jaxgen."""
    return Path(os.environ.get("JAXGEN_CACHE") or "~/.cache/jaxgen").expanduser()


def use_compilation_cache(min_seconds: float = 0.3) -> None:
    """Keeps programs that took at least `min_seconds` to compile in the user's cache folder."""
    import jax

    folder = cache_folder() / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Executables are code: only a folder nobody else can write to is one to load them from.
        folder.chmod(stat.S_IRWXU)
    except OSError:
        return  # a cache that cannot be written is a slower start, not an error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
