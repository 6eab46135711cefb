"""What is built and installed: the wheel, the sdist, an editable checkout, and the README.

Everything is built from a copy of the tree, so that nothing stale in it gets in and nothing
is left in it. The tests with virtual environments of their own need the package index:
where it cannot be reached they are skipped by name, and fail where CI is set.
"""

import email
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import distribution
from pathlib import Path

import docutils.core
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".git", ".venv*", ".bench", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info", "build",
    "dist", "_build", "*.pyc", "*.db", "*.db-*", "*.log",
)  # fmt: skip

UNREACHABLE = re.compile(r"connection|timed? ?out|resolution|No matching distribution", re.I)


@dataclass(frozen=True)
class Built:
    """The distributions of this tree, and the copy that they were built from."""

    checkout: Path
    wheel: Path
    sdist: Path

    def names_in_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as wheel:
            return set(wheel.namelist())

    def names_in_sdist(self) -> set[str]:
        """Names of files, without the folder that all of them are in."""
        with tarfile.open(self.sdist) as sdist:
            return {one.name.split("/", 1)[1] for one in sdist.getmembers() if one.isfile()}

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return email.message_from_string(wheel.read(name).decode("utf-8"))


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run outside the checkout's influence: no PYTHONPATH, another folder."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=NOT_SOURCE)
    done = run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", ".",
        cwd=checkout,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = (folder / "dist").glob("*.whl")
    [sdist] = (folder / "dist").glob("*.tar.gz")
    return Built(checkout, wheel, sdist)


@dataclass(frozen=True)
class Environment:
    """A virtual environment without anything of the one that runs the tests."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def install(self, *what: str | Path) -> None:
        done = run(
            sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet", "--upgrade",
            "--no-compile", *what, cwd=self.folder,
        )  # fmt: skip
        if done.returncode and UNREACHABLE.search(done.stderr) and not os.environ.get("CI"):
            pytest.skip("the package index cannot be reached")
        assert done.returncode == 0, done.stderr

    def lend(self, *names: str) -> None:
        """Copy distributions, with what they need, as pip has installed them for the tests: in a
        tenth of the time that it would take to find and install them once more."""
        place = Path(sysconfig.get_path("purelib", "posix_prefix", {"base": str(self.folder)}))
        wanted, lent = list(names), set()
        while wanted:
            name = wanted.pop()
            if name in lent:
                continue
            lent.add(name)
            found = distribution(name)
            for file in found.files or ():
                if ".." not in file.parts and "__pycache__" not in file.parts:
                    (place / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(found.locate_file(file), place / file)
            needs = map(Requirement, found.requires or ())
            wanted += [
                need.name
                for need in needs
                if need.marker is None or need.marker.evaluate({"extra": ""})
            ]

    def run_program(self, program: str) -> str:
        """Give what *program* prints; its failure is the test's."""
        path = self.folder / "program.py"
        path.write_text(program, encoding="utf-8")
        done = run(self.python, path, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def make_environment(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Environment]:
    def make(name: str) -> Environment:
        folder = tmp_path_factory.mktemp(name)
        venv.create(folder)  # a pip of its own would take seconds, and installs the same
        return Environment(folder)

    return make


@pytest.fixture(scope="module")
def beside_siblings(make_environment: Callable[[str], Environment]) -> Environment:
    """An environment with two other packages of the namespace, one of them of the old style."""
    environment = make_environment("siblings")
    environment.lend("tgext.pluggable", "tgext.debugbar", "TurboGears2", "transaction")
    return environment


def test_checkout_has_no_module_of_the_tgext_namespace_itself() -> None:
    assert not (ROOT / "tgext" / "__init__.py").exists()


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    package = built.checkout / "tgext" / "asyncjob"
    expected = {
        path.relative_to(built.checkout).as_posix() for path in package.rglob("*") if path.is_file()
    }

    names = {name for name in built.names_in_wheel() if ".dist-info/" not in name}

    assert names == expected
    assert "tgext/asyncjob/py.typed" in names
    assert "tgext/asyncjob/__init__.py" in names


@pytest.mark.slow
def test_sdist_is_the_whole_project(built: Built) -> None:
    names = built.names_in_sdist()

    assert {
        "README.txt", "CHANGES.txt", "LICENSE", "MANIFEST.in", "ARCHITECTURE.md", "Makefile",
        "setup.py", "pyproject.toml", ".ci/run", "tests/test_packaging.py", "benchmarks/memory.py",
        "sample_app/demo.py", "tgext/asyncjob/py.typed",
    } <= names  # fmt: skip
    assert "tgext/__init__.py" not in names
    assert [name for name in names if name.startswith("tgext/") and "asyncjob" not in name] == []
    assert [name for name in names if re.search(r"\.(pyc|db|log)$|__pycache__|\.venv", name)] == []


@pytest.mark.slow
def test_package_needs_transaction_and_nothing_else(built: Built) -> None:
    needs = built.metadata().get_all("Requires-Dist", [])

    assert [need for need in needs if "extra ==" not in need] == ["transaction>=3.0"]


@pytest.mark.slow
def test_extra_all_is_the_union_of_those_of_features(built: Built) -> None:
    def needs_of(extra: str) -> set[str]:
        needs = built.metadata().get_all("Requires-Dist", [])
        return {need.split(";")[0] for need in needs if f'extra == "{extra}"' in need}

    features = [
        "turbogears", "sqlalchemy", "postgresql", "mysql", "http", "worker", "store", "looppool",
        "web", "celery", "cron", "cli",
    ]  # fmt: skip
    assert all(needs_of(extra) for extra in features)
    assert needs_of("all") == set().union(*map(needs_of, features))


@pytest.mark.slow
def test_metadata_names_the_project(built: Built) -> None:
    metadata = built.metadata()

    assert metadata["Name"] == "tgext.asyncjob"
    assert metadata["Version"] == "1.0.0rc1"
    assert metadata["License"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "turbogears2.extension" in metadata["Keywords"].split(",")


@pytest.mark.slow
def test_readme_is_the_long_description(built: Built) -> None:
    metadata = built.metadata()
    description = metadata.get_payload()

    assert metadata["Description-Content-Type"] == "text/x-rst"
    assert isinstance(description, str)
    assert description.strip() == (ROOT / "README.txt").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", ["README.txt", "CHANGES.txt"])
def test_page_is_valid_restructured_text(name: str) -> None:
    complaints = io.StringIO()

    docutils.core.publish_doctree(
        (ROOT / name).read_text(encoding="utf-8"),
        settings_overrides={
            "report_level": 2,
            "halt_level": 5,
            "warning_stream": complaints,
            # as the package index renders it
            "file_insertion_enabled": False,
            "raw_enabled": False,
        },
    )

    assert complaints.getvalue() == ""


IMPORTS_SIBLINGS = """
import tgext.asyncjob, tgext.pluggable, tgext.debugbar
from tgext.asyncjob import asyncjob_perform, plugme, start_async_worker
print(tgext.asyncjob.__file__)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_is_importable_beside_other_packages_of_the_namespace(
    built: Built, beside_siblings: Environment
) -> None:
    beside_siblings.install("--force-reinstall", "--no-deps", built.wheel)

    place = beside_siblings.run_program(IMPORTS_SIBLINGS).strip()

    assert Path(place).is_relative_to(beside_siblings.folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_editable_checkout_is_importable_beside_other_packages_of_the_namespace(
    built: Built, beside_siblings: Environment
) -> None:
    beside_siblings.install("--no-deps", "--editable", built.checkout)

    place = beside_siblings.run_program(IMPORTS_SIBLINGS).strip()

    assert Path(place) == built.checkout / "tgext" / "asyncjob" / "__init__.py"


WORKS_ALONE = """
import importlib
import tgext.asyncjob
from tgext.asyncjob import JobQueue, asyncjob_set_progress, task

for name in ("tg", "sqlalchemy", "zope.sqlalchemy"):
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} is installed: this environment shows nothing")

attempts = []

def three_steps():
    for step in (1, 2, 3):
        asyncjob_set_progress(step, "step", total=3)
    return "done"

@task(max_attempts=2, backoff=0)
def second_time_lucky():
    attempts.append(len(attempts) + 1)
    if attempts == [1]:
        raise ValueError("the first attempt")
    return attempts

with JobQueue() as queue:
    queue.start_worker()
    steps = queue.result(queue.perform(three_steps)).wait(timeout=10)
    lucky = queue.result(queue.perform(second_time_lucky)).wait(timeout=10)

print(steps.status.name, steps.return_value, tuple(steps.progress))
print(lucky.status.name, lucky.return_value, lucky.attempts)

try:
    tgext.asyncjob.start_async_worker
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_queue_works_with_neither_turbogears_nor_sqlalchemy(
    built: Built, make_environment: Callable[[str], Environment]
) -> None:
    bare = make_environment("bare")
    bare.install(built.wheel)

    steps, lucky, missing = bare.run_program(WORKS_ALONE).splitlines()

    assert steps == "SUCCESSFUL done (3, 'step', 3)"
    assert lucky == "SUCCESSFUL [1, 2] 2"
    assert "tgext.asyncjob[turbogears]" in missing
