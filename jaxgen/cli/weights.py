"""`jaxgen weights convert KIND FILE OUT`, `show KIND FILE`, and published models' weights as a run and back."""

from typing import Any

from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path
from jaxgen.weights import KINDS, Weights, convert, load

USAGE = f"""usage: jaxgen weights convert KIND FILE OUT
       jaxgen weights show KIND FILE
       jaxgen weights export RUN FILE
       jaxgen weights import-lora FILE RUN OUT
       jaxgen weights export-lora RUN FILE [peft, diffusers or kohya]
       jaxgen weights merge-lora RUN OUT
       jaxgen weights import-gpt2 FILE [VOCABULARY] OUT
       jaxgen weights export-gpt2 RUN FILE
       jaxgen weights import-clip FOLDER OUT
       jaxgen weights export-clip RUN FOLDER [huggingface or open_clip]
       jaxgen weights import-taesd FOLDER OUT [--size N] [--tile T] [--images DIR]
       jaxgen weights import-vae FOLDER|FILE OUT [--size N] [--tile T] [--images DIR]
       jaxgen weights export-vae RUN FOLDER
       jaxgen weights import-sd FOLDER|FILE OUT [--vocabulary V] [--images DIR]
       jaxgen weights export-sd RUN FOLDER
       jaxgen weights import-t5 FOLDER FILE
       jaxgen weights import-tacotron2 FILE OUT [--folder DIR]
       jaxgen weights export-tacotron2 RUN FILE
       jaxgen weights import-hifigan FILE OUT [--folder DIR]
       jaxgen weights export-hifigan RUN FOLDER
       jaxgen weights import-ply FILE OUT [--folder DIR]
       jaxgen weights export-ply RUN FILE

export writes a run's parameters under jaxgen's own names, as a file for jaxgen train ... --init FILE.
import-lora adds the adapters in PEFT's, diffusers' or kohya's FILE to RUN, a GPT or a Stable Diffusion; export-lora
writes those of a run that was trained with --lora.rank, and merge-lora adds them to its kernels.
GPT-2's FILE is Hugging Face's model.safetensors, or another file in its layout, as of minGPT or nanoGPT; OUT is a run.
VOCABULARY is a folder of vocab.json and merges.txt, or a text whose characters are the tokens, in order; without one
prompts and samples are the numbers of tokens.
CLIP's FOLDER has model.safetensors, config.json, vocab.json and merges.txt as Hugging Face has them, or
open_clip_model.safetensors, open_clip_config.json and a vocabulary.
TAESD's FOLDER has NAME_encoder.pth and NAME_decoder.pth, or a safetensors file; OUT is a first stage for pictures of N
pixels a side, 64 if it is not said. import-vae takes that of Stable Diffusion, diffusers' FOLDER or a safetensors FILE,
for 256 pixels if it is not said. Maps of latents larger than T are encoded and decoded in tiles of T.
Stable Diffusion 1.x is diffusers' FOLDER, or the single safetensors FILE, beside which CLIP's vocab.json and merges.txt
lie, or elsewhere as V says; the data of OUT are enlarged emoji, or the captioned pictures of DIR.
T5's FOLDER has model.safetensors, config.json and tokenizer.json as Hugging Face has them; its encoder goes to FILE,
for jaxgen train text_to_image emoji_t5 --init FILE --data.vocabulary FOLDER.
Tacotron 2's FILE is a checkpoint of NVIDIA's code, or its tensors as safetensors, as export-tacotron2 writes them; the
data of OUT are speech made by eSpeak NG, or that of DIR, in LJSpeech's layout. HiFi-GAN's FILE is a generator, as the
published generator_v1, with config.json beside it, or a FOLDER that export-hifigan wrote.
import-ply makes a run of splats, as point_cloud.ply of their published code, with the pictures of DIR, or with cameras
around the origin; export-ply writes those of a run for viewers.

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
        case ["export", run, file]:
            from jaxgen.runs.initial import export_params

            export_params(user_path(run), user_path(file))
            print(f"written to {file}: jaxgen train SCRIPT PRESET --init {file}")
        case ["import-lora", file, run, out]:
            from jaxgen.runs.lora import import_lora

            import_lora(*map(user_path, (file, run, out)))
            print(f"written to {out}: jaxgen sample {out}")
        case ["export-lora", run, file] | ["export-lora", run, file, "peft" | "diffusers" | "kohya"]:
            from jaxgen.runs.lora import export_lora

            export_lora(user_path(run), user_path(file), args[3] if args[3:] else None)  # pyright: ignore[reportArgumentType]
            print(f"written to {file}")
        case ["merge-lora", run, out]:
            from jaxgen.runs.lora import merge_lora

            merge_lora(user_path(run), user_path(out))
            print(f"written to {out}: jaxgen sample {out}")
        case ["import-gpt2", file, *vocabulary, out] if len(vocabulary) < 2:
            from jaxgen.runs.gpt2 import import_run

            import_run(user_path(file), user_path(vocabulary[0]) if vocabulary else None, user_path(out))
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
        case ["import-t5", folder, file]:
            from jaxgen.runs.t5 import flags, import_text

            network = import_text(user_path(folder), user_path(file))
            print(f"written to {file}: --init {file} --data.vocabulary {folder} {flags(network)}".rstrip())
        case ["import-taesd", place, out, *flags]:
            from jaxgen.runs.taesd import import_run

            import_run(user_path(place), user_path(out), **_picture_flags("import-taesd", flags, 64))
            print(f"written to {out}: a second stage takes --codec.run {out} --codec.form latents")
        case ["import-vae", place, out, *flags]:
            from jaxgen.runs.autoencoder_kl import import_run

            import_run(user_path(place), user_path(out), **_picture_flags("import-vae", flags, 256))
            print(f"written to {out}: a second stage takes --codec.run {out} --codec.form latents")
        case ["export-vae", run, folder]:
            from jaxgen.runs.autoencoder_kl import export_run

            export_run(user_path(run), user_path(folder))
            print(f"written to {folder}")
        case ["import-sd", place, out, *flags]:
            from jaxgen.runs.stable_diffusion import import_run

            given = _flags("import-sd", flags, ("--vocabulary", "--images"))
            vocabulary = user_path(given["--vocabulary"]) if "--vocabulary" in given else None
            import_run(user_path(place), user_path(out), vocabulary, given.get("--images", ""))
            print(f"written to {out}: jaxgen sample {out} --prompt ...")
        case ["export-sd", run, folder]:
            from jaxgen.runs.stable_diffusion import export_run

            export_run(user_path(run), user_path(folder))
            print(f"written to {folder}")
        case ["import-tacotron2", file, out, *flags]:
            from jaxgen.runs.tacotron2 import import_run

            import_run(
                user_path(file), user_path(out), _flags("import-tacotron2", flags, ("--folder",)).get("--folder", "")
            )
            print(f"written to {out}: jaxgen speak {out} TEXT FILE.wav")
        case ["export-tacotron2", run, file]:
            from jaxgen.runs.tacotron2 import export_run

            export_run(user_path(run), user_path(file))
            print(f"written to {file}")
        case ["import-hifigan", file, out, *flags]:
            from jaxgen.runs.hifigan import import_run

            folder = _flags("import-hifigan", flags, ("--folder",)).get("--folder", "")
            import_run(user_path(file), user_path(out), folder)
            print(f"written to {out}: jaxgen speak RUN TEXT FILE.wav --vocoder {out}")
        case ["export-hifigan", run, folder]:
            from jaxgen.runs.hifigan import export_run

            export_run(user_path(run), user_path(folder))
            print(f"written to {folder}")
        case ["import-ply", file, out, *flags]:
            from jaxgen.runs.splats import import_run

            import_run(user_path(file), user_path(out), _flags("import-ply", flags, ("--folder",)).get("--folder", ""))
            print(f"written to {out}: jaxgen render {out}")
        case ["export-ply", run, file]:
            from jaxgen.runs.splats import export_run

            print(f"{export_run(user_path(run), user_path(file))} splats written to {file}")
        case _:
            raise UserError(f"jaxgen weights takes other arguments than {' '.join(args) or 'none'}: see --help")


def _picture_flags(action: str, flags: list[str], size: int) -> dict[str, Any]:
    """size, tile and images of a first stage. Raises UserError for other flags, or a number that is none."""
    given = _flags(action, flags, ("--size", "--tile", "--images"))
    numbers = {}
    for name, default in (("size", size), ("tile", 0)):
        words = given.get(f"--{name}", str(default))
        if not words.isdecimal() or len(words) > 4 or not min(1, default) <= int(words) <= 4096:
            raise UserError(f"--{name} is {words:.20}: a whole number of at most 4096 is expected")
        numbers[name] = int(words)
    return {**numbers, "images": given.get("--images", "")}


def _flags(action: str, flags: list[str], known: tuple[str, ...]) -> dict[str, str]:
    """The values of flags by name. Raises UserError for others than those known, or twice the same."""
    given = dict(zip(flags[::2], flags[1::2]))
    if len(flags) % 2 or given.keys() - set(known) or 2 * len(given) != len(flags):
        names = ", ".join(f"{name} {'N' if name in ('--size', '--tile') else 'PLACE'}" for name in known)
        raise UserError(f"{action} takes {names}, not {' '.join(flags)}: see --help")
    return given


def described(found: Weights) -> str:
    """The facts that go with every result computed with these weights."""
    known = "published" if found.published else "NOT a published file: scores with it are not comparable"
    return f"{found.kind} {found.sha256}\nfrom {found.source} {found.source_sha256} ({known})"
