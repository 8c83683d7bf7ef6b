"""Beside the tasks in a worker: deliveries, messages, heartbeat, sweeper, verdicts of the main process."""
