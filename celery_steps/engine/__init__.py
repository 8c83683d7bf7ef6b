"""One attempt at a run: identity, journal, steps. Knows neither Celery nor Redis."""
