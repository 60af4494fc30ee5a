"""Claim: of 200 random mutants of release/, evaluation/, lineage/ and data/, the tests kill at least 85 %.

A mutant is the package with one small fault: a comparison turned, a bound moved by one, `and` for `or`, a sign, a
constant, a condition denied, a result lost, a statement left out. Messages, docstrings, annotations and `__repr__` are
left alone. It is killed when a test fails (or hangs), and survives when all tests that reach the fault pass: then
either nothing looks there, or nothing can be seen from there. Survivors are to be read one by one.

    python benchmarks/mutation.py --mutants 200 --seed 1 --out /tmp/mutants.md
    python benchmarks/mutation.py --rooms lineage --mutants 10 --seed 3

Everything happens in a scratch copy of the checkout. First each test is run once, to learn which functions it calls;
then each mutant is put into a fork of a process that has imported all tests already, and meets the tests that call its
function, the test module of its own name first, the quick before the slow. Faults outside of functions, and in
functions that an import calls, need a fresh import, and meet all tests that call anything of their module.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

PACKAGE, TESTS = "dentsight_pipeline", "dentsight_pipeline_tests"
ROOMS = ("release", "evaluation", "lineage", "data")
TARGET = 0.85
TEXTS = 0.25
"""Share of texts (keys, tags, names) that may get a fault: there are more of them than of everything else together."""
MOST_MEMORY = 6 << 30
"""Bytes of data that a mutant may take: a fault can ask for all there is."""
WARM = ("numpy", "pandas", "pyarrow.ipc", "scipy.stats", "PIL.Image", "cv2", "pydantic", "msgspec", "dagster", "pytest")
"""What tests import in any case, and what a fault outside of a function is imported on top of."""

# Faults --------------------------------------------------------------------------------------------------------------

_TURNED: Mapping[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_SWAPPED: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault."""

    path: str
    """The module, relative to the checkout."""
    line: int
    what: str
    """The kind of fault."""
    before: str
    after: str
    function: str | None
    """Qualified name of the outermost function that holds it; None outside of functions."""
    first_line: int
    """Of that function, decorators included."""
    last_line: int
    source: str = dataclasses.field(repr=False)
    """The module with the fault."""


def faults_of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Kind and replacement of every fault that a node can have."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in _TURNED:
            for other in _TURNED[type(op)]:
                yield "comparison", ast.Compare(node.left, [other()], node.comparators)
        case ast.BoolOp(op, values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield "not", operand
        case ast.BinOp(left, op, right) if type(op) in _SWAPPED and not (_is_text(left) or _is_text(right)):
            yield "operator", ast.BinOp(left, _SWAPPED[type(op)](), right)
        case ast.IfExp(test, body, orelse):
            yield "condition", ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield "constant", ast.Constant(value + 1)
            yield "constant", ast.Constant(value - 1)
        case ast.Constant(str() as text) if text and text.replace("_", "").replace("-", "").isalnum():
            yield "constant", ast.Constant(f"{text}X")
        case ast.Return(value) if value is not None and not _is_none(value):
            yield "result", ast.Return(ast.Constant(None))
        case ast.Expr(ast.Constant()):
            return
        case ast.Expr() | ast.AugAssign() | ast.Raise():
            yield "statement", ast.Pass()
        case ast.Continue():
            yield "statement", ast.Break()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def mutants_of(root: Path, path: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    source = (root / path).read_text("utf-8")
    for node, function, qualname in _sites(ast.parse(source), None, ""):
        for what, replacement in faults_of(node):
            before, after = ast.get_source_segment(source, node) or "", ast.unparse(replacement)
            if isinstance(node, ast.expr):
                after = f"({after})"
            first = min([function.lineno, *(item.lineno for item in function.decorator_list)]) if function else 0
            last = (function.end_lineno or 0) if function else 0
            changed = _replaced(source, node, after)
            with contextlib.suppress(SyntaxError):
                compile(changed, path, "exec")
                yield Mutant(
                    path, node.lineno, what, before, after, qualname if function else None, first, last, changed
                )


def _sites(
    node: ast.AST, function: ast.FunctionDef | None, qualname: str
) -> Iterator[tuple[Any, ast.FunctionDef | None, str]]:
    """The nodes that a fault may be put into, each with the outermost function that holds it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and function is None:
            name = f"{qualname}.{child.name}".lstrip(".")
            inside = child if isinstance(child, ast.FunctionDef) else None
            if child.name != "__repr__":
                yield from _sites(ast.Module(child.body, []), inside, name)
            continue
        if _left_alone(child) or child in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            continue
        yield child, function, qualname
        if not isinstance(child, ast.Raise):
            yield from _sites(child, function, qualname)


def _left_alone(node: ast.AST) -> bool:
    """Messages, imports, docstrings and annotations: no fault of behaviour."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return False
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return docstring or typing or isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert)


def _replaced(source: str, node: Any, after: str) -> str:
    """The source with other text in place of a node; columns of `ast` count bytes."""
    lines = source.encode().splitlines(keepends=True)
    start = sum(map(len, lines[: node.lineno - 1])) + node.col_offset
    end = sum(map(len, lines[: node.end_lineno - 1])) + node.end_col_offset
    data = source.encode()
    return (data[:start] + after.encode() + data[end:]).decode()


def sample(root: Path, rooms: Sequence[str], count: int, seed: int) -> list[Mutant]:
    """Random mutants: every place of every module is as likely, texts less so; each place has at most one fault."""
    paths = sorted(p.relative_to(root).as_posix() for room in rooms for p in (root / PACKAGE / room).rglob("*.py"))
    places: dict[tuple[str, int, str], list[Mutant]] = defaultdict(list)
    for mutant in (mutant for path in paths for mutant in mutants_of(root, path)):
        places[mutant.path, mutant.line, mutant.before].append(mutant)
    chance = random.Random(seed)
    kept = [place for place in sorted(places) if place[2][:1] not in "\"'" or chance.random() < TEXTS]
    chosen = chance.sample(kept, min(count, len(kept)))
    return [chance.choice(places[place]) for place in chosen]


# Tests ---------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Reached:
    """What one test calls."""

    seconds: float = 0.0
    passed: bool = False
    functions: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    """Module → first lines of the functions that were called."""


class Watch:
    """A pytest plugin that learns what each test calls, and what fixtures that several tests share call for them."""

    def __init__(self, root: Path) -> None:
        self.prefix = f"{root / PACKAGE}{os.sep}"
        self.root = root
        self.called: set[tuple[str, int]] = set()
        self.shared: dict[str, set[tuple[str, int]]] = defaultdict(set)
        self.tests: dict[str, Reached] = {}

    def trace(self, frame: FrameType, event: str, argument: object) -> None:
        """Python's hook: only calls are looked at, lines never."""
        code = frame.f_code
        if code.co_filename.startswith(self.prefix):
            self.called.add((code.co_filename, code.co_firstlineno))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        """What a fixture of a wider scope calls, every test that asks for it calls."""
        outside, self.called = self.called, set()
        yield
        if fixturedef.scope != "function":
            self.shared[fixturedef.argname] |= self.called
        self.called |= outside

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        """One test, from its fixtures to its end."""
        self.called = set()
        started = time.perf_counter()
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]
            for name in item.fixturenames:
                self.called |= self.shared.get(name, set())
            reached = self.tests.setdefault(item.nodeid, Reached())
            reached.seconds = time.perf_counter() - started
            for filename, line in sorted(self.called):
                reached.functions.setdefault(os.path.relpath(filename, self.root), []).append(line)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Only tests that pass can kill."""
        if report.when == "call":
            self.tests.setdefault(report.nodeid, Reached()).passed = report.passed


class Only:
    """A pytest plugin that runs some tests, in the order given."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self.place = {nodeid: number for number, nodeid in enumerate(wanted)}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Drop all others."""
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda item: self.place[item.nodeid])


def test_files(root: Path, rooms: Sequence[str]) -> list[str]:
    """The test modules of the rooms, and those of other rooms that import a module of them.

    Not those of orchestration/: they start processes of their own, into which no fault is put.
    """
    own = tuple(f"{PACKAGE}.{room}" for room in rooms)
    found = []
    for path in sorted((root / TESTS).rglob("test_*.py")):
        imports = {
            name
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            for name in _imported(node)
            if name.startswith(own)
        }
        room = path.relative_to(root / TESTS).parts[0]
        if room in rooms or (imports and room != "orchestration"):
            found.append(path.relative_to(root).as_posix())
    return found


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def tests_for(mutant: Mutant, tests: Mapping[str, Reached]) -> list[str]:
    """The tests that reach a fault: those of the module's own name first, then the quick ones."""
    module = Path(mutant.path).relative_to(PACKAGE)
    mirror = (Path(TESTS) / module.parent / f"test_{module.name}").as_posix()
    if mutant.function is None:
        reaching = [nodeid for nodeid, test in tests.items() if mutant.path in test.functions]
    else:
        lines = range(mutant.first_line, mutant.last_line + 1)
        reaching = [n for n, test in tests.items() if any(k in lines for k in test.functions.get(mutant.path, ()))]
    return sorted(
        (nodeid for nodeid in reaching if tests[nodeid].passed),
        key=lambda nodeid: (not nodeid.startswith(mirror), tests[nodeid].seconds),
    )


# Running -------------------------------------------------------------------------------------------------------------


def run_pytest(arguments: Sequence[str], *plugins: object) -> int:
    """Pytest in this process."""
    options = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore"]
    return int(pytest.main([*options, *arguments], plugins=list(plugins)))


def in_a_fork(work: Callable[[], int], log: Path, timeout_s: float) -> int | None:
    """The status of some work done in a forked process; None when it was stopped for taking too long."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            with log.open("wb") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            status = work()
        finally:
            os._exit(status)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def code_of(source: str, path: Path, function: str, line: int) -> CodeType | None:
    """The compiled code of one function of a module."""
    waiting = [compile(source, str(path), "exec")]
    while waiting:
        code = waiting.pop()
        if (code.co_qualname, code.co_firstlineno) == (function, line):
            return code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return None


def forget_imports() -> None:
    """What is imported next is read anew."""
    for name in [name for name in sys.modules if name.split(".")[0] in (PACKAGE, TESTS)]:
        del sys.modules[name]


def module_of(path: str) -> str:
    """The name by which a file of the package is imported."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def called_by_import(mutant: Mutant, root: Path) -> int:
    """Whether importing the mutant's module calls its function, whose work is then done before a fault is put in."""
    watch = Watch(root)
    forget_imports()
    sys.settrace(watch.trace)
    importlib.import_module(module_of(mutant.path))
    sys.settrace(None)
    own = {line for name, line in watch.called if name == str(root / mutant.path)}
    return int(any(line in range(mutant.first_line, mutant.last_line + 1) for line in own))


def put_in(mutant: Mutant, path: Path) -> None:
    """Give every function object of the mutant's function the faulty code; whoever imports it has the fault too."""
    importlib.import_module(module_of(mutant.path))  # some tests import it when they run
    code = code_of(mutant.source, path, str(mutant.function), mutant.first_line)
    key = (str(path), mutant.function, mutant.first_line)
    for found in [item for item in gc.get_objects() if isinstance(item, FunctionType)]:
        is_it = (found.__code__.co_filename, found.__code__.co_qualname, found.__code__.co_firstlineno) == key
        if is_it and code is not None:
            found.__code__ = code


class Campaign:
    """A scratch copy of the checkout, and what its tests reach."""

    def __init__(self, root: Path, rooms: Sequence[str], timeout_s: float) -> None:
        self.root, self.timeout_s = root, timeout_s
        self.files = test_files(root, rooms)
        self.log, self.temporary = root / "pytest.log", root / "basetemp"
        self.warm = False

    def learn(self) -> dict[str, Reached]:
        """Run every test once, each module in a fork of its own."""
        tests: dict[str, Reached] = {}
        found = self.root / "reached.json"
        for number, file in enumerate(self.files, start=1):

            def run(file: str = file) -> int:
                watch = Watch(self.root)
                status = run_pytest([file, f"--basetemp={self.temporary}", "-o", "addopts="], watch)
                found.write_text(json.dumps({n: dataclasses.asdict(test) for n, test in watch.tests.items()}))
                return status

            found.unlink(missing_ok=True)
            started = time.perf_counter()
            in_a_fork(run, self.log, 20 * self.timeout_s)
            if found.exists():
                tests |= {nodeid: Reached(**test) for nodeid, test in json.loads(found.read_text()).items()}
            say(f"{number} of {len(self.files)}: {file}, {time.perf_counter() - started:.0f} s")
        return tests

    def verdict(self, mutant: Mutant, tests: Mapping[str, Reached]) -> str:
        """`killed by TEST`, `killed: took too long`, `survived` or `reached by no test`."""
        if mutant.function and in_a_fork(lambda: called_by_import(mutant, self.root), self.log, self.timeout_s):
            mutant = dataclasses.replace(mutant, function=None)
        wanted = tests_for(mutant, tests)
        if not wanted:
            return "reached by no test"
        seconds = self.timeout_s + 3 * sum(tests[nodeid].seconds for nodeid in wanted)
        with self.faulty_file(mutant) if mutant.function is None else contextlib.nullcontext():
            status = in_a_fork(lambda: self.meet(mutant, wanted), self.log, seconds)
        shutil.rmtree(self.temporary, ignore_errors=True)
        if status == 0:
            return "survived"
        return "killed: took too long" if status is None else f"killed by {self.killer()}"

    def meet(self, mutant: Mutant, wanted: Sequence[str]) -> int:
        """The tests on one mutant, in a process that ends afterwards."""
        if mutant.function is None:
            forget_imports()
        else:
            put_in(mutant, self.root / mutant.path)
        files = list(dict.fromkeys(nodeid.split("::")[0] for nodeid in wanted))
        return run_pytest([*files, f"--basetemp={self.temporary}", "-o", "addopts="], Only(wanted))

    @contextlib.contextmanager
    def faulty_file(self, mutant: Mutant) -> Iterator[None]:
        """The module with the fault on disk; its compiled form is told apart by the file's time."""
        path = self.root / mutant.path
        sound, kept = path.read_bytes(), path.stat()
        path.write_text(mutant.source, "utf-8")
        os.utime(path, (kept.st_atime, kept.st_mtime + 1000))
        try:
            yield
        finally:
            path.write_bytes(sound)
            os.utime(path, (kept.st_atime, kept.st_mtime))

    def killer(self) -> str:
        """The first test that failed, as pytest said it."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return next((line.split()[1] for line in lines if line.startswith(("FAILED ", "ERROR "))), "an error")


def copied(checkout: Path, root: Path) -> None:
    """The tracked files of a checkout, compiled."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (checkout / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, root / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", PACKAGE], cwd=root, check=True)


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def table(results: Iterable[tuple[Mutant, str, float]]) -> str:
    """Everything that was not killed, for a person to read."""
    rows = ["| place | function | fault | before | after | |", "|---|---|---|---|---|---|"]
    for mutant, verdict, _ in results:
        if not verdict.startswith("killed"):
            before, after = (" ".join(text.split()).replace("|", "\\|")[:90] for text in (mutant.before, mutant.after))
            place = f"{mutant.path.removeprefix(PACKAGE + '/')}:{mutant.line}"
            rows.append(f"| {place} | {mutant.function or '–'} | {mutant.what} | `{before}` | `{after}` | {verdict} |")
    return "\n".join(rows)


def main() -> None:
    """Sample, run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rooms", nargs="+", default=list(ROOMS), help="rooms to put faults into (default: %(default)s)"
    )
    parser.add_argument("--mutants", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=float, default=60, help="seconds beyond which a mutant hangs (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="file for the table of survivors")
    parser.add_argument("--reached", type=Path, help="file for what each test calls; good while the code is the same")
    options = parser.parse_args()

    sys.dont_write_bytecode = True
    checkout = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        root = Path(scratch).resolve()
        copied(checkout, root)
        os.chdir(root)
        sys.path.insert(0, str(root))
        os.environ["PYTHONPATH"] = str(root)
        chosen = sample(root, options.rooms, options.mutants, options.seed)
        campaign = Campaign(root, options.rooms, options.timeout)
        for name in WARM:
            __import__(name)
        tests = known(options.reached, campaign)
        run_pytest([*campaign.files, "--collect-only", "-q", "-o", "addopts="])  # imports all tests, for every fork
        results = []
        for number, mutant in enumerate(chosen, start=1):
            started = time.perf_counter()
            verdict = campaign.verdict(mutant, tests)
            results.append((mutant, verdict, time.perf_counter() - started))
            say(f"{number}: {mutant.path}:{mutant.line} {mutant.what}: {verdict} ({results[-1][2]:.1f} s)")
            report(results, options.out)
    say(report(results, options.out))


def known(path: Path | None, campaign: Campaign) -> dict[str, Reached]:
    """What each test calls: learnt, or as it was kept."""
    if path is not None and path.exists():
        return {nodeid: Reached(**test) for nodeid, test in json.loads(path.read_text()).items()}
    tests = campaign.learn()
    if path is not None:
        path.write_text(json.dumps({nodeid: dataclasses.asdict(test) for nodeid, test in tests.items()}))
    return tests


def report(results: Sequence[tuple[Mutant, str, float]], out: Path | None) -> str:
    """The rate, and the table of what survived."""
    counts = Counter("killed" if verdict.startswith("killed") else verdict for _, verdict, _ in results)
    share, seconds = counts["killed"] / len(results), sum(taken for _, _, taken in results) / len(results)
    head = (
        f"{counts['killed']} of {len(results)} mutants killed ({share:.0%}, target {TARGET:.0%}), {counts['survived']} "
        f"survived, {counts['reached by no test']} reached by no test; {seconds:.1f} s each."
    )
    text = f"{head}\n\n{table(results)}\n"
    if out is not None:
        out.write_text(text, "utf-8")
    return text


if __name__ == "__main__":
    main()
