"""A small Django project; its Redis is named by the environment."""

import os

SECRET_KEY = "only for tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["celery_steps", "shop"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", ":memory:"), "TEST": {"NAME": None}}
}

CELERY_BROKER_URL = os.environ.get("BROKER", "redis://localhost:6379/0")
CELERY_RESULT_BACKEND = os.environ.get("RESULTS", "redis://localhost:6379/1")
CELERY_STEPS_BACKEND = os.environ.get("STORE", "redis://localhost:6379/2")
