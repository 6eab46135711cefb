"""Who may log in: one account, for whoever looks after the jobs."""

import secrets

import tg
from tg.configuration.auth import TGAuthMetadata

__all__ = ["MANAGER", "Managers"]

MANAGER = "manager"


class Managers(TGAuthMetadata):
    """One user with the permission "manage", which is all that the dashboard of the jobs asks for.

    A real application has users of its own; ``gearbox quickstart -a`` makes their tables.
    """

    def authenticate(self, environ, identity):
        """Return the user name if the password is right; None if it is not."""
        password = tg.config["photoalbum.manager_password"]
        given = identity["password"].encode()
        is_right = secrets.compare_digest(given, password.encode())
        return MANAGER if is_right and identity["login"] == MANAGER else None

    def get_user(self, identity, userid):
        return userid if userid == MANAGER else None

    def get_permissions(self, identity, userid):
        return ["manage"] if userid == MANAGER else []
