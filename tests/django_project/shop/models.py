from django.db import models


class Order(models.Model):
    cents = models.IntegerField()
    status = models.CharField(max_length=20, default="new")
