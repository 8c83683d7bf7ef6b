"""Django finds its commands here, with `celery_steps` in INSTALLED_APPS."""
