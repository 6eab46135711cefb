"""Settings of photoalbum that are the same wherever it is deployed."""

from tg import FullStackApplicationConfigurator

import photoalbum
from photoalbum import model

__all__ = ["base_config"]

base_config = FullStackApplicationConfigurator()

base_config.update_blueprint(
    {
        "package": photoalbum,
        "renderers": ["json", "kajiki"],
        "default_renderer": "kajiki",
        "templating.kajiki.strip_text": False,
        # The album knows no users, so it needs neither sessions nor caches.
        "session.enabled": False,
        "cache.enabled": False,
        "i18n.enabled": False,
        # Answers that get a page of the album's own (controllers/error.py).
        "errorpage.status_codes": [403, 404, 405, 413, 500],
        # Reports by mail would need the package backlash; the log has every error.
        "trace_errors.enable": False,
        # The transaction manager stays on: each request is one transaction, and a
        # job that the request enqueues is part of it.
        "use_sqlalchemy": True,
        "model": model,
        "DBSession": model.DBSession,
    }
)
