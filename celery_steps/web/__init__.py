"""The console: `celery -A proj steps web`, or an ASGI app to mount. A thin cover over `Runs`."""

from celery_steps.web.console import create_app
from celery_steps.web.guard import BasicAuth

__all__ = ["BasicAuth", "create_app"]
