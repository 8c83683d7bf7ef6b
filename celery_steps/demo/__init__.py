"""The demo: a small shop whose workers are killed, once with a plain Celery task and once with a DurableTask."""
