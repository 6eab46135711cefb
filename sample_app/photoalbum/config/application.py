"""Make the WSGI application that the .ini file describes."""

from pathlib import Path

from photoalbum import model
from photoalbum.config.app_cfg import base_config
from photoalbum.lib import storage

__all__ = ["make_app"]


def make_app(global_conf, **app_conf):
    """Build photoalbum (the ``paste.app_factory`` of this package).

    What is missing on disk is made first, so that the album starts without
    ``gearbox setup-app``.
    """
    storage.make_folders(Path(app_conf["photoalbum.media_dir"]))
    app = base_config.make_wsgi_app(global_conf, app_conf, wrap_app=None)
    model.create_missing_tables()
    return app
