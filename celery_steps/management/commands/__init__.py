"""`python manage.py steps ...`."""
