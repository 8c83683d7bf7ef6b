"""`manage.py test` of the project: its test database, its transactions, its command."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

from celery import current_app
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import TestCase, TransactionTestCase

from celery_steps import Runs
from delivering import deliver, published
from shop.models import Order
from shop.tasks import fulfil


def called(*arguments: str) -> str:
    out = StringIO()
    call_command("steps", *arguments, stdout=out)
    return out.getvalue()


class WhenTheTransactionEnds(TransactionTestCase):
    def setUp(self) -> None:
        published(current_app)

    def test_a_task_is_sent_when_it_is_committed_and_not_before(self) -> None:
        with transaction.atomic():
            order = Order.objects.create(cents=100)
            fulfil.delay_on_commit(order.pk)
            self.assertEqual(published(current_app), [])
        (message,) = published(current_app)
        self.assertEqual(message.headers["steps_namespace"], f"order-{order.pk}")

    def test_a_task_is_not_sent_when_it_is_rolled_back(self) -> None:
        with self.assertRaises(ZeroDivisionError), transaction.atomic():
            fulfil.delay_on_commit(Order.objects.create(cents=100).pk)
            raise ZeroDivisionError
        self.assertEqual(published(current_app), [])

    def test_options_of_the_call_are_kept(self) -> None:
        with transaction.atomic():
            fulfil.apply_async_on_commit((1,), namespace="mine", task_id="id-1")
        (message,) = published(current_app)
        self.assertEqual((message.headers["steps_namespace"], message.headers["id"]), ("mine", "id-1"))


class InTheTestDatabase(TestCase):
    def deliver(self, *arguments: Any, namespace: str) -> Order:
        order = Order.objects.create(cents=250)
        deliver(fulfil, order.pk, *arguments, id=namespace, headers={"steps_namespace": namespace})
        order.refresh_from_db()
        return order

    def test_a_durable_task_works_with_the_models(self) -> None:
        order = self.deliver(namespace="one")
        self.assertEqual(order.status, "shipped")
        self.assertEqual([record.result for record in Runs(current_app).records("one")], [250, "charged 250"])

    def test_a_callback_on_commit_can_be_captured(self) -> None:
        with self.captureOnCommitCallbacks() as callbacks:
            fulfil.delay_on_commit(1)
        self.assertEqual(len(callbacks), 1)

    def test_the_command_does_what_celerys_does(self) -> None:
        self.deliver(True, namespace="two")
        self.assertIn("no parcel service", called("show", "two"))
        (run,) = [run for run in json.loads(called("list", "--json"))["runs"] if run["namespace"] == "two"]
        self.assertEqual((run["task"], run["status"]), ("shop.tasks.fulfil", "failed"))

    def test_what_is_refused_is_a_command_error_with_the_exit_code(self) -> None:
        err = StringIO()
        with self.assertRaises(CommandError) as caught:
            call_command("steps", "show", "nobody", stderr=err)
        self.assertEqual(caught.exception.returncode, 1)
        self.assertIn("There is no run 'nobody'", err.getvalue())
