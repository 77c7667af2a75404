"""`jaxgen report RUN`: the page of a run, written anew."""

from jaxgen.errors import UserError
from jaxgen.runtime.reading import user_path


def command(args: list[str]) -> None:
    """Writes RUN/report.html anew from what is in the folder, of one seed or of many, or of a sweep."""
    from jaxgen.report import write_report
    from jaxgen.report.seeds import write_seeds_report
    from jaxgen.report.sweep import SWEEP, write_sweep_report

    if len(args) != 1 or args[0].startswith("-"):
        print(f"{command.__doc__}\n\nusage: jaxgen report RUN")
        if args in (["-h"], ["--help"]):
            return
        raise UserError("exactly one run folder is expected: jaxgen report RUN")
    run = user_path(args[0])
    if (run / SWEEP).exists():
        print(f"report: {write_sweep_report(run)}")
        return
    many = not (run / "experiment.json").exists() and any(run.glob("seed*/experiment.json"))
    print(f"report: {(write_seeds_report if many else write_report)(run)}")
