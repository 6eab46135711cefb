"""Metadata and extras of tgext.asyncjob; the settings of the tools are in pyproject.toml.

The package itself needs `transaction` and nothing else. TurboGears2 and SQLAlchemy are
extras, because a JobQueue works without either.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).resolve().parent


def text_of(name: str) -> str:
    """Give the text of a file beside this one, "" where there is none."""
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


EXTRAS = {
    "turbogears": ["TurboGears2>=2.5.1"],
    # below 2.2: the next series has not been tried
    "sqlalchemy": ["SQLAlchemy>=2.0.36,<2.2", "zope.sqlalchemy>=3.1", "itsdangerous>=2.1"],
}
# a database's driver, with what backend = sql needs of any
EXTRAS["postgresql"] = [*EXTRAS["sqlalchemy"], "psycopg[binary]>=3.1"]
EXTRAS["mysql"] = [*EXTRAS["sqlalchemy"], "PyMySQL>=1.1"]
# calls on another server: HttpExecutor, HttpHook and the Slackers' workers over them
EXTRAS["http"] = ["urllib3>=2.0", "itsdangerous>=2.1"]
# process titles, and the memory that a worker is recycled by
EXTRAS["worker"] = [*EXTRAS["sqlalchemy"], "setproctitle>=1.3", "psutil>=5.9"]
# a store of tasks with a secret, or with closures in it
EXTRAS["store"] = ["itsdangerous>=2.1"]
# titles and gauges of looppool's processes; the pool itself needs nothing
EXTRAS["looppool"] = ["setproctitle>=1.3", "psutil>=5.9", "statsd>=4"]
# progress elements, and the pages of the package
EXTRAS["web"] = ["WebOb>=1.8.9", "kajiki>=1.0", "MarkupSafe>=2.1", "itsdangerous>=2.1"]
# workers on a Celery fleet, over Redis or RabbitMQ
EXTRAS["celery"] = [*EXTRAS["sqlalchemy"], "celery[redis]>=5.6.3,<6"]
# schedules with a cron expression: its ticks, and time zones for machines that have none
EXTRAS["cron"] = ["cronsim>=2.7", "tzdata"]
# a live view of the queue in a terminal: status --watch
EXTRAS["cli"] = ["rich>=13.7"]
EXTRAS["all"] = sorted({need for needs in EXTRAS.values() for need in needs})
EXTRAS["test"] = [
    # the runner, and pages and servers that the tests drive
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "WebTest>=3.0.4",
    "selenium>=4.20",
    # brings axe-core (MPL 2.0), which looks at the pages for what a reader could not use
    "axe-playwright-python>=0.1.8",
    "psutil>=5.9",
    "gunicorn>=22",
    "waitress>=3",
    "hupper>=1.12",
    # what programs written for tornado-slacker, Looppool and strand are used with
    "Django>=4.2",
    "tornado>=6.4",
    "raven>=6.10",
    "sentry-sdk>=2",
    "redis>=5",
    "dill>=0.3.8",
    # the TurboGears applications that the tests make
    "gearbox>=0.5",
    "tg.devtools>=2.5",
    "kajiki>=1.0",
    "alembic>=1.13",
    "Beaker>=1.8",
    "repoze.who>=3.2",
    "WebHelpers2>=2.0",
    "Babel>=2.16",
    "Pillow>=10",
    "tgext.pluggable>=0.9",
    "tgext.debugbar>=0.6.1",
    # packaging, types and style
    "build>=1.2",
    "setuptools>=77",
    "wheel>=0.43",
    "docutils>=0.21",
    "mypy>=1.15",
    "ruff>=0.12",
]
# what `make docs` builds the pages with
EXTRAS["docs"] = ["Sphinx>=8.1", "furo>=2024.8.6"]
EXTRAS["bench"] = ["huey>=3,<4", "matplotlib>=3.8", "py-spy>=0.4"]
# an extra of its own: it is compiled at installation, and `make test` goes on without it
EXTRAS["uwsgi"] = ["uWSGI>=2.0.26; sys_platform != 'win32'"]

setup(
    name="tgext.asyncjob",
    version="1.0.0rc1",
    description="Background jobs with progress for TurboGears2 and any other WSGI application",
    long_description=text_of("README.txt"),
    long_description_content_type="text/x-rst",
    author="the tgext.asyncjob authors",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["turbogears2.extension", "TurboGears2", "background", "job", "queue", "progress"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: TurboGears",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP :: WSGI",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    # PEP 420: `tgext` belongs to everybody and has no __init__.py. Listed with its folder, it
    # makes an editable installation one plain line in a .pth file, which type checkers follow
    packages=find_namespace_packages(
        include=["tgext", "tgext.asyncjob", "tgext.asyncjob.*"],
        exclude=["*.__pycache__", "*.web.*"],
    ),
    package_dir={"": "."},
    package_data={
        "tgext.asyncjob": ["py.typed"],
        "tgext.asyncjob.web": ["static/*", "templates/*", "asyncjob.pot"],
    },
    include_package_data=True,
    zip_safe=False,
    install_requires=["transaction>=3.0"],
    extras_require=EXTRAS,
    entry_points={
        "gearbox.commands": [
            f"asyncjob-{name} = tgext.asyncjob.turbogears.commands:{name.capitalize()}Command"
            for name in (
                "worker",
                "celery",
                "status",
                "retry",
                "cancel",
                "purge",
                "pause",
                "resume",
                "schedules",
                "schema",
            )
        ],
    },
)
