"""The layers of ARCHITECTURE.md, compared with every import of the package.

Imports are read from the source by ``ast``. An import counts wherever it stands: in a function,
under TYPE_CHECKING, or as a call of importlib's. One under TYPE_CHECKING may point upwards if it is
in FOR_TYPES: the type checker alone reads it, so the part below runs without the part above.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

PACKAGE = "tgext.asyncjob"
SOURCE = Path(__file__).resolve().parent.parent / "tgext" / "asyncjob"

#: From top to bottom: a module imports only from layers below its own. A package with all its
#: modules is one part. Parts of one layer do not import each other.
LAYERS = """
    __init__
    celery
    turbogears  __main__
    cli  web
    bulk
    fleet
    api
    queue
    client operations
    schedule
    results  database  failure_hook
    explanation
    worker
    slackers  looppool  taskrunners
    backends.sql  backends.memory  executors
    backends
    wakeups
    transactions
    processes
    serialization
    options
    task
    task_result
    current  recurrence
    duplicates
    job
    task_options  policies
    sharing
    keys  uniqueness  tick_reasons
    call  json_form  queue_name  amount  one_line  wording  bounded  sentence
    errors
"""

#: What else than the standard library a part, or one module of it, may import.
THIRD_PARTY = {
    "serialization": {"itsdangerous"},
    "processes": {"psutil", "setproctitle"},
    "transactions": {"transaction"},
    "transactions.connections": {"sqlalchemy", "zope.sqlalchemy"},
    "transactions.sessions": {"sqlalchemy", "zope.sqlalchemy"},
    "transactions.session_kinds": {"sqlalchemy", "zope.sqlalchemy"},
    "transactions.fork_check": {"sqlalchemy"},
    "executors": {"urllib3"},
    "backends.sql": {"sqlalchemy"},
    "recurrence": {"cronsim"},
    "slackers": {"django"},
    "looppool": {"psutil", "tornado"},
    "wakeups": {"celery", "kombu"},
    "fleet": {"celery", "click"},
    "cli": {"rich"},
    "web": {"webob", "kajiki", "markupsafe"},
    "turbogears": {"tg", "markupsafe", "webob", "gearbox", "paste.deploy"},
}

COMPUTED = "a module whose name it computes"

#: What may be imported late, and why.
LATE = {
    "job": {COMPUTED},  # the class of a stored error, if it still is where it was
    "serialization": {COMPUTED},  # the module that a stored call names
    "recurrence": {"cronsim"},  # a task without cron needs none
    "backends": {COMPUTED},  # the backend that the options name
    # what needs Celery: the rest runs without it; the module of an application's Celery app
    "wakeups": {COMPUTED},
    "cli": {COMPUTED},
    "cli.status": {"cli.watch"},  # the rest runs without rich
    "celery": {"turbogears.commands"},  # only where ASYNCJOB_CONFIG is an .ini file
    # the module that a chain begins with; what speaks HTTP; a store with a secret or a closure:
    # the rest runs without itsdangerous
    "executors": {COMPUTED, "serialization", "serialization.closures"},
    "slackers": {COMPUTED},  # what speaks HTTP
    "looppool": {"tornado.ioloop"},  # only where the pool was given Tornado's loop
    "database": {"transactions.sessions"},  # only where the application has SQLAlchemy
    "web": {"kajiki"},  # at the first page: most processes never show one
    "turbogears.slow_action": {COMPUTED},  # the module of the action
    "__main__": {COMPUTED},  # the module that --app names
    "__init__": {COMPUTED},  # turbogears and web: the rest runs without their packages
}

#: What may be imported under TYPE_CHECKING from a layer above, and why.
FOR_TYPES = {
    "current": {"queue", "worker.attempt"},  # its ContextVars lead to both from every layer
    "task_result": {"results"},  # a TaskResult is given the results of its queue
    "worker": {"queue"},  # an attempt makes its queue the current one
}

#: The packages of the other seeds are thin: what these modules are for, executors have already.
SEED_PACKAGES = {"slackers", "taskrunners", "looppool"}
NOT_FOR_SEED_PACKAGES = {
    "threading",
    "multiprocessing",
    "queue",
    "socket",
    "select",
    "selectors",
    "pickle",
}

MOST_LINES = 350

#: Drawers where names go to die.
NO_NOUNS = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class Import:
    """One module imported by another; names without the package's own where they are ours."""

    importer: str
    target: str
    line: int
    ours: bool
    late: bool
    for_types: bool = False  #: it stands under ``if TYPE_CHECKING:``

    @property
    def is_listed(self) -> bool:
        """Whether it is one of FOR_TYPES."""
        part = entry_of(FOR_TYPES, self.importer)
        return self.for_types and part is not None and self.target in FOR_TYPES[part]


def entry_of(table: Collection[str], module: str) -> str | None:
    """The longest name in a table that is the module's or a package's around it."""
    names = [name for name in table if module == name or module.startswith(f"{name}.")]
    return max(names, key=len, default=None)


class Layers:
    """Which part is on which layer; 0 is the top."""

    def __init__(self, text: str = LAYERS) -> None:
        lines = [line.split() for line in text.split("\n") if line.strip()]
        self._layers = {part: number for number, line in enumerate(lines) for part in line}

    def part_of(self, module: str) -> str | None:
        """``backends.sql.claims`` is in the part ``backends.sql``."""
        return entry_of(self._layers, module)

    def layer_of(self, part: str) -> int:
        return self._layers[part]

    def allows(self, importer: str, target: str) -> bool:
        """Whether one module may import another as far as layers go."""
        above, below = self.part_of(importer), self.part_of(target)
        if above is None or below is None:
            return False
        return above == below or self.layer_of(above) < self.layer_of(below)


# -- reading


def modules_of(source: Path) -> dict[str, Path]:
    """The modules of the package at *source*, by their names without the package's."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


class Reader(ast.NodeVisitor):
    """Collects the imports of one module."""

    def __init__(self, module: str, path: Path, modules: dict[str, Path]) -> None:
        self.found: list[Import] = []
        self._module = module
        self._modules = modules
        self._depth = 0
        self._for_types = False
        full = PACKAGE if module == "__init__" else f"{PACKAGE}.{module}"
        self._package = full if path.name == "__init__.py" else full.rpartition(".")[0]

    def _deeper(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _deeper

    def visit_If(self, node: ast.If) -> None:
        before = self._for_types
        self._for_types = before or ast.unparse(node.test) == "TYPE_CHECKING"
        for each in node.body:
            self.visit(each)
        self._for_types = before
        for each in (node.test, *node.orelse):
            self.visit(each)

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._add(name.name, node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        origin = self._absolute("." * node.level + (node.module or ""))
        for name in node.names:
            whole = f"{origin}.{name.name}"
            # "from . import joblog" names a module, "from .job import Job" does not
            is_module = whole.removeprefix(f"{PACKAGE}.") in self._modules
            is_part = not origin.startswith(PACKAGE) and origin in ("zope", "tgext")
            self._add(whole if is_module or is_part else origin, node)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in ("import_module", "__import__") and node.args:
            self._add(self._constant(node.args[0]), node, by_name=True)
        self.generic_visit(node)

    def _constant(self, node: ast.expr) -> str:
        """The name of a module that a call of importlib's is given."""
        if isinstance(node, ast.Constant):
            return self._absolute(str(node.value))
        text = ""
        for part in getattr(node, "values", [None]):
            if isinstance(part, ast.Constant):
                text += part.value
            elif isinstance(part, ast.FormattedValue) and ast.unparse(part.value) == "__package__":
                text += self._package
            else:
                return COMPUTED
        return text

    def _absolute(self, name: str) -> str:
        bare = name.lstrip(".")
        level = len(name) - len(bare)
        if not level:
            return bare
        origin = self._package.split(".")
        origin = origin[: len(origin) - level + 1]
        return ".".join([*origin, bare] if bare else origin)

    def _add(self, target: str, node: ast.stmt | ast.expr, *, by_name: bool = False) -> None:
        ours = target == PACKAGE or target.startswith(f"{PACKAGE}.")
        if ours:
            target = target.removeprefix(PACKAGE).removeprefix(".") or "__init__"
        late = by_name or self._depth > 0
        line = node.lineno
        self.found.append(Import(self._module, target, line, ours, late, self._for_types))


def imports_of(source: Path) -> list[Import]:
    """Every import of the package at *source*."""
    modules = modules_of(source)
    return _imports_in(tuple((*each, each[1].read_text("utf-8")) for each in modules.items()))


@lru_cache(2)  # each test asks for those of the same text
def _imports_in(modules: tuple[tuple[str, Path, str], ...]) -> list[Import]:
    found, by_name = [], {module: path for module, path, _text in modules}
    for module, path, text in modules:
        reader = Reader(module, path, by_name)
        reader.visit(ast.parse(text))
        found += reader.found
    return found


# -- judging


def wrong_layers(source: Path, layers: Layers) -> list[str]:
    homeless = [
        f"{module} is in no layer" for module in modules_of(source)
        if layers.part_of(module) is None
    ]  # fmt: skip
    return homeless + [
        f"{found.importer} must not import {found.target} (line {found.line})"
        for found in imports_of(source)
        if found.ours and not found.is_listed and not layers.allows(found.importer, found.target)
    ]


def wrong_strangers(source: Path) -> list[str]:
    complaints = []
    for found in imports_of(source):
        if found.ours or found.target == COMPUTED:
            continue
        if found.target.split(".")[0] in sys.stdlib_module_names:
            continue
        allowed = THIRD_PARTY.get(entry_of(THIRD_PARTY, found.importer) or "", set())
        if not any(found.target == name or found.target.startswith(f"{name}.") for name in allowed):
            complaints.append(
                f"{found.importer} must not import {found.target} (line {found.line})"
            )
    return complaints


def wrong_times(source: Path) -> list[str]:
    return [
        f"{found.importer} must not import {found.target} late (line {found.line})"
        for found in imports_of(source)
        if found.late and found.target not in LATE.get(entry_of(LATE, found.importer) or "", set())
    ]


def thick_seed_packages(source: Path) -> list[str]:
    return [
        f"{found.importer} must not import {found.target} (line {found.line}): it is a seed package"
        for found in imports_of(source)
        if found.importer.partition(".")[0] in SEED_PACKAGES
        if not found.ours and found.target.partition(".")[0] in NOT_FOR_SEED_PACKAGES
    ]


def circles(source: Path) -> list[str]:
    """Modules that import each other, over however many others."""
    targets: dict[str, set[str]] = {}
    for found in imports_of(source):
        counts = found.ours and not found.late and not found.for_types
        if counts and found.importer != "__init__":
            targets.setdefault(found.importer, set()).add(found.target)
    complaints = []
    for module in targets:
        reached: set[str] = set()
        waiting = set(targets[module])
        while waiting:
            reached.add(target := waiting.pop())
            waiting |= targets.get(target, set()) - reached
        if module in reached:
            complaints.append(f"{module} must not import itself over others")
    return complaints


def wrong_modules(source: Path) -> list[str]:
    complaints = []
    for module, path in modules_of(source).items():
        if module.rpartition(".")[2] in NO_NOUNS:
            complaints.append(f"{module} must not be called so: give it the noun it is about")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            complaints.append(f"{module} must not have {lines} lines: {MOST_LINES} at most")
    if (source.parent / "__init__.py").exists():
        complaints.append("tgext must not have an __init__.py: it is shared with other packages")
    return complaints


# -- the package


def test_rooms_look_down_only():
    assert wrong_layers(SOURCE, Layers()) == []


def test_rooms_know_no_other_packages_than_they_may():
    assert wrong_strangers(SOURCE) == []


def test_nothing_is_imported_late_but_what_may_be():
    assert wrong_times(SOURCE) == []


def test_seed_packages_have_no_queue_pool_or_thread_code():
    assert thick_seed_packages(SOURCE) == []


def test_no_modules_import_each_other():
    assert circles(SOURCE) == []


def test_modules_are_named_for_what_they_are_and_short_enough_to_read():
    assert wrong_modules(SOURCE) == []


def test_layers_have_no_part_that_does_not_exist():
    assert set(LAYERS.split()) - set(modules_of(SOURCE)) == set()


def test_every_exception_in_the_lists_is_needed():
    late = {
        (entry_of(LATE, found.importer), found.target) for found in imports_of(SOURCE) if found.late
    }
    strangers = {
        (entry_of(THIRD_PARTY, found.importer), name)
        for found in imports_of(SOURCE)
        for name in THIRD_PARTY.get(entry_of(THIRD_PARTY, found.importer) or "", set())
        if found.target == name or found.target.startswith(f"{name}.")
    }

    for_types = {
        (entry_of(FOR_TYPES, found.importer), found.target)
        for found in imports_of(SOURCE)
        if found.for_types and not Layers().allows(found.importer, found.target)
    }

    assert {(part, target) for part in LATE for target in LATE[part]} - late == set()
    assert {(part, name) for part in FOR_TYPES for name in FOR_TYPES[part]} - for_types == set()
    assert {(part, name) for part in THIRD_PARTY for name in THIRD_PARTY[part]} - strangers == set()


# -- the test itself: a package that is wrong in one place is told so


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package in which nothing is wrong."""
    source = tmp_path / "tgext" / "asyncjob"
    files = {
        "__init__": "from .api import enqueue\nfrom .job import Job",
        "errors": "import concurrent.futures, os.path",
        "job": "from __future__ import annotations\nfrom .errors import Wrong",
        "transactions/__init__": "",
        "transactions/scope": "import transaction",
        "transactions/sessions": "import sqlalchemy.orm\nfrom zope.sqlalchemy import register",
        "backends/__init__": "",
        "backends/base": "from ..job import Job",
        "backends/memory": "from .base import Backend",
        "worker/__init__": "",
        "worker/worker": "from . import job_log\nfrom ..backends.base import Backend",
        "worker/job_log": "import logging",
        "api": "from tgext.asyncjob.worker.worker import Worker",
        "turbogears/__init__": "from .plug import plugme",
        "turbogears/plug": "import tg\nfrom ..api import enqueue\nfrom .wrapper import Wrapper",
        "turbogears/wrapper": "from webob.request import Request",
    }
    for name, text in files.items():
        path = source / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return source


def all_complaints(source: Path) -> list[str]:
    layers = Layers()
    return [
        *wrong_layers(source, layers),
        *wrong_strangers(source),
        *wrong_times(source),
        *thick_seed_packages(source),
        *circles(source),
        *wrong_modules(source),
    ]


def test_right_package_gives_no_complaint(package):
    assert all_complaints(package) == []


def test_import_for_the_type_checker_may_point_upwards_where_it_is_listed(package):
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .queue import JobQueue\n"
    (package / "current.py").write_text(text)
    (package / "queue.py").write_text("from .current import queue_var\n")

    assert all_complaints(package) == []


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("job", "from .worker.worker import W", "job must not import worker.worker (line 1)"),
        ("job", "from . import worker", "job must not import worker (line 1)"),
        (
            "job",
            "import tgext.asyncjob.worker.worker",
            "job must not import worker.worker (line 1)",
        ),
        ("job", "from tgext.asyncjob import worker", "job must not import worker (line 1)"),
        ("job", "from . import Job", "job must not import __init__ (line 1)"),
        ("job", "import tgext.asyncjob", "job must not import __init__ (line 1)"),
        (
            "job",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .api import enqueue",
            "job must not import api (line 3)",
        ),
        (
            "current",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .api import enqueue",
            "current must not import api (line 3)",
        ),
        (
            "current",
            "from .worker.attempt import A",
            "current must not import worker.attempt (line 1)",
        ),
        (
            "current",
            "if TYPE_CHECKING:\n    pass\nelse:\n    from .queue import Q",
            "current must not import queue (line 4)",
        ),
        (
            "job",
            "try:\n    import tg\nexcept ImportError:\n    tg = None",
            "job must not import tg (line 2)",
        ),
        ("job", "def f():\n    from .worker import W", "job must not import worker (line 2)"),
        ("job", "def f():\n    import os", "job must not import os late (line 2)"),
        (
            "job",
            "def f():\n    from .errors import Wrong",
            "job must not import errors late (line 2)",
        ),
        (
            "job",
            "import importlib\nfound = importlib.import_module('.worker', __package__)",
            "job must not import worker (line 2)",
        ),
        (
            "job",
            "from importlib import import_module\nimport_module('sqlalchemy.orm')",
            "job must not import sqlalchemy.orm (line 2)",
        ),
        (
            "job",
            "import importlib\ndef f():\n    importlib.import_module(f'{__package__}.worker')",
            "job must not import worker (line 3)",
        ),
        ("job", "__import__('tg')", "job must not import tg (line 1)"),
        (
            "worker",
            "import importlib\ndef f(name):\n    importlib.import_module(name)",
            f"worker must not import {COMPUTED} late (line 3)",
        ),
        (
            "worker",
            "import importlib\ndef f(name):\n    importlib.import_module(f'{__package__}.{name}')",
            f"worker must not import {COMPUTED} late (line 3)",
        ),
        (
            "transactions/scope",
            "import sqlalchemy",
            "transactions.scope must not import sqlalchemy (line 1)",
        ),
        (
            "transactions/scope",
            "import zope.sqlalchemy",
            "transactions.scope must not import zope.sqlalchemy (line 1)",
        ),
        (
            "transactions/scope",
            "from ..backends.base import Backend",
            "transactions.scope must not import backends.base (line 1)",
        ),
        (
            "transactions/sessions",
            "from zope import interface",
            "transactions.sessions must not import zope.interface (line 1)",
        ),
        (
            "transactions/sessions",
            "import transaction",
            "transactions.sessions must not import transaction (line 1)",
        ),
        ("api", "from tg import request", "api must not import tg (line 1)"),
        ("api", "from .turbogears import plugme", "api must not import turbogears (line 1)"),
        ("api", "from .turbogears.plug import p", "api must not import turbogears.plug (line 1)"),
        (
            "turbogears/plug",
            "import sqlalchemy",
            "turbogears.plug must not import sqlalchemy (line 1)",
        ),
        (
            "turbogears/plug",
            "from tgext.pluggable import app_model",
            "turbogears.plug must not import tgext.pluggable (line 1)",
        ),
        (
            "turbogears/wrapper",
            "from . import plugme",
            "turbogears.wrapper must not import itself over others",
        ),
        (
            "turbogears/wrapper",
            "from .plug import p",
            "turbogears.plug must not import itself over others",
        ),
        (
            "backends/sql/__init__",
            "from ..memory import Memory",
            "backends.sql must not import backends.memory (line 1)",
        ),
        (
            "backends/sql/claims",
            "from ...worker import Worker",
            "backends.sql.claims must not import worker (line 1)",
        ),
        (
            "slackers/workers",
            "import multiprocessing.pool",
            "slackers.workers must not import multiprocessing.pool (line 1): it is a seed package",
        ),
        (
            "looppool",
            "def f():\n    from queue import Queue",
            "looppool must not import queue (line 2): it is a seed package",
        ),
        (
            "taskrunners",
            "from concurrent import futures\nimport pickle",
            "taskrunners must not import pickle (line 2): it is a seed package",
        ),
        ("calendar", "", "calendar is in no layer"),
        (
            "backends/sql/utils",
            "",
            "backends.sql.utils must not be called so: give it the noun it is about",
        ),
        (
            "turbogears/misc",
            "",
            "turbogears.misc must not be called so: give it the noun it is about",
        ),
        ("job", "\n" * 350, "job must not have 351 lines: 350 at most"),
        ("../__init__", "", "tgext must not have an __init__.py: it is shared with other packages"),
    ],
)
def test_wrong_package_is_told_what_is_wrong(package, module, text, complaint):
    path = package / f"{module}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{text}\n")

    assert complaint in all_complaints(package)
