"""The house: imports point down, no circle, nothing at the package's root that has a room, no file too long to read."""

import ast
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "jaxgen"
LONGEST = 400

# Each floor may import those before it. A name stands for a module, or for all of a package that no other floor names.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "core.types", "core.keys", "core.ranges"),
    ("runtime",),
    ("ops",),
    ("nets",),
    ("optim",),
    ("core",),
    ("codecs", "data"),
    ("weights",),
    ("metrics",),
    ("models",),
    ("experiment",),
    ("report",),
    ("runs",),
    ("inference",),
    ("train", "scoring", "planning"),
    ("api",),
    ("comparison", "app"),
    ("cli",),
    ("__main__",),
)
AT_THE_ROOT = {"__init__", "__main__", "errors", "optim", "codecs", "experiment"}


def module_name(path: Path, package: Path) -> str:
    """`core.types` of PACKAGE/core/types.py, `core` of PACKAGE/core/__init__.py, "" of the package itself."""
    return ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def floor(module: str) -> int:
    """The floor that a module stands on: that of the longest name that covers it."""
    names = {name: i for i, names in enumerate(FLOORS) for name in names}
    covering = [name for name in names if module == name or module.startswith(f"{name}.")]
    assert covering, f"{module} stands on no floor"
    return names[max(covering, key=len)]


def imports(path: Path, known: set[str]) -> set[str]:
    """The package's modules that a file imports, anywhere in it but for type checkers alone."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    only_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in only_types:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner.removeprefix("jaxgen.") in known else str(node.module))
    return {name.removeprefix("jaxgen").removeprefix(".") for name in found if name.split(".")[0] == "jaxgen"}


def graph(package: Path) -> dict[str, set[str]]:
    files = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    return {module: imports(path, set(files)) for module, path in files.items()}


def upwards(modules: dict[str, set[str]]) -> list[str]:
    """Every import of a module on a higher floor. The package's own __init__ may name any: it is all of them."""
    pairs = [(a, b) for a, others in modules.items() for b in others if a and b]
    return [f"{a} imports {b}" for a, b in pairs if floor(b) > floor(a)]


def circles(modules: dict[str, set[str]]) -> list[str]:
    """A circle of imports through each module that is on one."""
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, way: tuple[str, ...]) -> None:
        if module in way:
            found.append(" -> ".join((*way[way.index(module) :], module)))
            return
        if module in done:
            return
        for other in modules.get(module, ()):
            visit(other, (*way, module))
        done.add(module)

    for module in modules:
        visit(module, ())
    return found


def with_packages(modules: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same with the packages that a module's import runs first, but for those that the importer lies in."""
    inside = {a: {".".join(a.split(".")[:i]) for i in range(1, a.count(".") + 1)} for a in modules}
    return {a: {c for b in others for c in {b} | inside[b]} - inside[a] - {a} for a, others in modules.items()}


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    return graph(PACKAGE)


def test_imports_point_down(modules):
    assert len(modules) > 100
    assert not upwards(modules)


def test_there_is_no_circle(modules):
    """Regression: `import jaxgen.optim`, first of all, failed: the package of `core.ranges` imported it again."""
    assert not circles(modules) and not circles(with_packages(modules))


def test_what_breaks_the_rules_is_found(tmp_path):
    """In a function, as a module, from a package, and around a circle."""
    (tmp_path / "ops").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "ops" / "one.py").write_text("def f():\n    from jaxgen.models import gan\n")
    (tmp_path / "ops" / "two.py").write_text("import jaxgen.models.gan\nfrom jaxgen.ops.three import x\n")
    (tmp_path / "ops" / "three.py").write_text("from jaxgen.ops import two\n")
    (tmp_path / "models" / "gan.py").write_text("from jaxgen.ops.one import f\n")
    modules = graph(tmp_path)
    assert upwards(modules) == ["ops.one imports models.gan", "ops.two imports models.gan"]
    assert circles(modules) == ["models.gan -> ops.one -> models.gan", "ops.three -> ops.two -> ops.three"]


def test_every_file_has_a_room():
    assert {path.stem for path in PACKAGE.glob("*.py")} == AT_THE_ROOT


@pytest.mark.parametrize("folder", ["jaxgen", "tests", "benchmarks", "experiments", "docs"])
def test_no_file_is_too_long(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LONGEST}
