"""What the store promises, as tests that a server must pass.

`pytest --pyargs celery_steps.testing.store_contract --steps-url URL`; without a URL it is fakeredis. Every test has key names of
its own, which it deletes: nothing else in the database is touched.
"""
