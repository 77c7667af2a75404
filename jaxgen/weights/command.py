"""`jaxgen weights convert KIND FILE OUT` and `jaxgen weights show KIND FILE`."""

from jaxgen.errors import UserError
from jaxgen.weights import KINDS, Weights, convert, load

USAGE = f"""usage: jaxgen weights convert KIND FILE OUT
       jaxgen weights show KIND FILE

KIND is one of {", ".join(KINDS)}. FILE is the public PyTorch file, which you download yourself:
""" + "\n".join(f"  {name:10} {' or '.join(kind.published.values())}" for name, kind in KINDS.items())


def weights(args: list[str]) -> None:
    """Converts a public PyTorch weights file to safetensors, hash checked; or says what such a file holds."""
    match args:
        case ["-h" | "--help"]:
            print(USAGE)
        case ["convert", kind, source, out]:
            print(described(convert(kind, source, out)) + f"\nwritten to {out}")
        case ["show", kind, file]:
            print(described(load(kind, file)))
        case _:
            raise UserError(f"jaxgen weights takes other arguments than {' '.join(args) or 'none'}: see --help")


def described(found: Weights) -> str:
    """The facts that go with every result computed with these weights."""
    known = "published" if found.published else "NOT a published file: scores with it are not comparable"
    return f"{found.kind} {found.sha256}\nfrom {found.source} {found.source_sha256} ({known})"
