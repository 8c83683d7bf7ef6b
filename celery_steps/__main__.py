"""`python -m celery_steps demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m celery_steps")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="kill workers at random, and compare a plain task with a durable one",
        description="Fulfil orders while worker processes are killed with SIGKILL: first by a plain acks_late task, then by a "
        "DurableTask. Starts a private Redis, or fakeredis where there is none; ends all that it started.",
    )
    demo.add_argument("--orders", type=_between(1, 400), default=300, help="how many orders (default: 300)")
    demo.add_argument("--kills", type=_between(0, 200), default=12, help="how many kills in each act (default: 12)")
    demo.add_argument("--seed", type=int, default=1, help="for when and whom to kill (default: 1)")
    demo.add_argument("--fakeredis", action="store_true", help="use fakeredis even if a Redis server is installed")
    demo.add_argument("--json", action="store_true", help="print the figures as JSON; progress goes to standard error")
    options = parser.parse_args(arguments)
    from celery_steps.demo import play  # Celery and rich are not needed to say what is wrong with an option

    return play.run(options.orders, options.kills, options.seed, fake=options.fakeredis, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
