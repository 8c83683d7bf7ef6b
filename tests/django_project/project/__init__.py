import os

if "WITHOUT_CELERY" not in os.environ:
    from project.celery import app as celery_app

    __all__ = ["celery_app"]
