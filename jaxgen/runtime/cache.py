"""The user's cache folder: compiled programs and features of real data."""

import os
import sys
import tempfile
import warnings
from pathlib import Path

from jaxgen.runtime.reading import user_path

DEFAULT = "~/.cache/jaxgen"
_said: set[Path] = set()


def cache_folder() -> Path:
    """The user's cache folder of jaxgen: $JAXGEN_CACHE, or ~/.cache/jaxgen; of a user without a home, one among the
    temporary files. Raises UserError for a $JAXGEN_CACHE that names nobody's home."""
    if given := os.environ.get("JAXGEN_CACHE"):
        return user_path(given)
    try:
        return Path(DEFAULT).expanduser()
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"jaxgen-cache-{os.getuid()}"


def private_folder(name: str) -> Path | None:
    """A folder in the cache that nobody else can read or write, whatever the umask. None where there can be none,
    which is said once: a cache that cannot be written is a slower start, not an error."""
    folder = cache_folder() / name
    try:
        missing = []
        above = folder
        while not above.exists():
            missing.append(above)
            above = above.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
        # A umask only takes away; and what older versions made is made private too.
        for path in {*missing, folder}:
            path.chmod(0o700)
        if {cache_folder().lstat().st_uid, folder.stat().st_uid} != {os.getuid()}:
            raise PermissionError(0, "it belongs to another user")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(0, "it cannot be written to")
    except OSError as error:
        no_cache(folder, error)
        return None
    return folder


def no_cache(folder: Path, error: OSError) -> None:
    """Says once that a folder of the cache is not used."""
    if folder not in _said:
        _said.add(folder)
        print(f"{folder} is not used as a cache ({error.strerror}): going on without it", file=sys.stderr)


def use_compilation_cache(min_seconds: float = 0.3) -> None:
    """Keeps programs that took at least `min_seconds` to compile in the user's cache folder."""
    import jax

    # Executables are code: only a folder nobody else can write to is one to load them from.
    folder = private_folder("xla")
    if folder is None:
        return
    # A full disk, or a file that another version wrote: compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
