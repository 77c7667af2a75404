"""`jaxgen weights convert KIND FILE OUT`, `show KIND FILE`, and GPT-2's and CLIP's weights as a run and back."""

from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path
from jaxgen.weights import KINDS, Weights, convert, load

USAGE = f"""usage: jaxgen weights convert KIND FILE OUT
       jaxgen weights show KIND FILE
       jaxgen weights import-gpt2 FILE VOCABULARY OUT
       jaxgen weights export-gpt2 RUN FILE
       jaxgen weights import-clip FOLDER OUT
       jaxgen weights export-clip RUN FOLDER [huggingface or open_clip]

GPT-2's FILE is Hugging Face's model.safetensors, VOCABULARY a folder of its vocab.json and merges.txt, OUT a run.
CLIP's FOLDER has model.safetensors, config.json, vocab.json and merges.txt as Hugging Face has them, or
open_clip_model.safetensors, open_clip_config.json and a vocabulary.

KIND is one of {", ".join(KINDS)}. FILE is the public PyTorch file, which you download yourself:
""" + "\n".join(f"  {name:10} {' or '.join(kind.published.values())}" for name, kind in KINDS.items())


def command(args: list[str]) -> None:
    """Converts a public PyTorch weights file to safetensors, hash checked, or says what such a file holds; makes a run
    of GPT-2's or CLIP's weights, or their files of a run."""
    match args:
        case ["-h" | "--help"]:
            print(USAGE)
        case ["convert", kind, source, out]:
            print(described(convert(kind, source, out)) + f"\nwritten to {out}")
        case ["show", kind, file]:
            print(described(load(kind, file)))
        case ["import-gpt2", file, vocabulary, out]:
            from jaxgen.runs.gpt2 import import_run

            import_run(*map(user_path, (file, vocabulary, out)))
            print(f"written to {out}: jaxgen sample {out} --prompt ...")
        case ["export-gpt2", run, file]:
            from jaxgen.runs.gpt2 import export_run

            export_run(user_path(run), user_path(file))
            print(f"written to {file}, config.json beside it")
        case ["import-clip", folder, out]:
            from jaxgen.runs.clip import import_run

            import_run(*map(user_path, (folder, out)))
            print(f"written to {out}: jaxgen evaluate {out}")
        case ["export-clip", run, folder] | ["export-clip", run, folder, "huggingface" | "open_clip"]:
            from jaxgen.runs.clip import export_run

            export_run(user_path(run), user_path(folder), "open_clip" if args[3:] == ["open_clip"] else "huggingface")
            print(f"written to {folder}")
        case _:
            raise UserError(f"jaxgen weights takes other arguments than {' '.join(args) or 'none'}: see --help")


def described(found: Weights) -> str:
    """The facts that go with every result computed with these weights."""
    known = "published" if found.published else "NOT a published file: scores with it are not comparable"
    return f"{found.kind} {found.sha256}\nfrom {found.source} {found.source_sha256} ({known})"
