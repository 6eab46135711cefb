"""``gearbox setup-app``: prepare the database before the first start."""

from pathlib import Path

from photoalbum import model
from photoalbum.config.app_cfg import base_config
from photoalbum.lib import storage

__all__ = ["setup_app"]


def setup_app(command, conf, vars):
    """Create folders and tables; both may exist already."""
    conf = base_config.configure(conf.global_conf, conf.local_conf)
    base_config.setup(conf)
    storage.make_folders(Path(conf["photoalbum.media_dir"]))
    model.create_missing_tables()
