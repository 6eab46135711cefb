"""Settings of photoalbum that are the same wherever it is deployed."""

from tg import FullStackApplicationConfigurator

import photoalbum
from photoalbum import model
from photoalbum.config.managers import Managers

__all__ = ["base_config"]

base_config = FullStackApplicationConfigurator()

base_config.update_blueprint(
    {
        "package": photoalbum,
        "renderers": ["json", "kajiki"],
        "default_renderer": "kajiki",
        "templating.kajiki.strip_text": False,
        # The login is a signed cookie, so the album needs neither sessions nor caches.
        "session.enabled": False,
        "cache.enabled": False,
        "i18n.enabled": False,
        # The album is for everybody; its jobs are for the manager.
        "sa_auth.enabled": True,
        "sa_auth.authmetadata": Managers(),
        "sa_auth.authtkt.samesite": "Lax",
        "sa_auth.post_login_url": "/logged_in",
        "sa_auth.post_logout_url": "/",
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
