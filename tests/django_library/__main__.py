"""Serve the library's site."""

import sys

from waitress.server import create_server

from django_library import ALLOW, configure

configure(sys.argv[1], SLACKER_ALLOW=ALLOW)

from django.core.management import call_command  # noqa: E402 - Django has to be set up
from django.core.wsgi import get_wsgi_application  # noqa: E402

call_command("migrate", run_syncdb=True, verbosity=0)
server = create_server(get_wsgi_application(), host="127.0.0.1", port=0)
sys.stdout.write(f"127.0.0.1:{server.effective_port}\n")
sys.stdout.flush()
server.run()
