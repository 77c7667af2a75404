"""`jaxgen decompress`: the pictures of a file that the same run compressed."""

from jaxgen.cli.compress import leading
from jaxgen.cli.options import Common, ask
from jaxgen.errors import UserError
from jaxgen.inference.compression import check_model, decompress_file


def command(args: list[str]) -> None:
    """The pictures of a file that the same run compressed: RUN IN.jxg OUT.png [flags]; OUT is a folder for several."""
    files, args = leading(args, usage := "decompress RUN IN.jxg OUT.png")
    if len(files) > 2:
        raise UserError(f"{len(files)} files were named, two are expected: jaxgen {usage}")
    asked = ask(Common, args, "decompress", command.__doc__)
    check_model(asked.experiment.compute_model)
    print(decompress_file(asked.restore(), *files))
