"""A Django application of authors and books, and a site that serves only the hook.

``python -m django_library database.sqlite3`` makes the tables, prints ``host:port`` and serves.
"""

from __future__ import annotations

from typing import Any

SECRET_KEY = "the key of the library's site"

#: What may be called there.
ALLOW = ["django.contrib.auth.models.User", "django_library"]


def configure(database: str, **settings_of_test: Any) -> None:
    """Set Django up, once in a process."""
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY=SECRET_KEY,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database}},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django_library"],
        MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        ROOT_URLCONF="django_library.urls",
        ALLOWED_HOSTS=["127.0.0.1"],
        USE_TZ=True,
        TIME_ZONE="UTC",
        **settings_of_test,
    )
    django.setup()
