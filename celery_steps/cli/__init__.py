"""`celery -A proj steps ...`: a thin cover over `Runs`, which does nothing that `Runs` cannot.

Every `celery` process in the environment imports this module: so it imports nothing but click until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from celery_steps.cli.serve import web
from celery_steps.errors import RunRefused, SettingsError, StepsError
from celery_steps.store.keys import FINAL, LEVELS, OPEN
from celery_steps.times import duration, moment

if TYPE_CHECKING:
    from celery_steps.cli.output import Output
    from celery_steps.runs import Runs


class _Text(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Text that one of our parsers must understand."""

    def __init__(self, name: str, parse: Callable[[Any, str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._parse(value, param.opts[0] if param is not None else self.name)
        except StepsError as error:
            self.fail(str(error), param, ctx)


def _json_value(text: str, name: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StepsError(f"{name} must be JSON: {error}.") from error
    if value is None:
        raise StepsError(f"{name} cannot be null: that is what a wait returns at its deadline.")
    return value


_DURATION, _TIME, _JSON = _Text("duration", duration), _Text("time", moment), _Text("json", _json_value)


def _complete(what: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    def words(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        from celery_steps.cli import complete

        found: list[str] = getattr(complete, what)(context, parameter, incomplete)
        return found

    return words


_name = click.argument("name", shell_complete=_complete("names"))
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@contextmanager
def _answering(context: click.Context, as_json: bool) -> Iterator[tuple[Runs, Output]]:
    """What a command works with. An error of ours becomes a message and exit code 1."""
    from celery_steps.cli.output import Output
    from celery_steps.runs import Runs

    app = context.obj.app
    plain, colored = (bool(getattr(context.obj, name, False)) for name in ("no_color", "force_color"))
    output = Output(as_json, plain, colored)
    try:
        yield Runs(app), output
    except StepsError as error:
        text = str(error)
        if isinstance(error, SettingsError) and app.main == "default":
            text += "\nNo app is named: celery -A proj steps ..."
        output.error(text)
        context.exit(1)


@click.group()
def steps() -> None:
    """Look at durable runs, and act on them.

    NAME is a namespace or a task id. Exit code: 0 done, 1 not found or refused, 2 wrong usage.
    """


@steps.command("list")
@click.option("--status", multiple=True, type=click.Choice(OPEN + FINAL), help="Only this status; can be given again.")
@click.option("--task", metavar="NAME", help="Only runs of this task.")
@click.option("--since", type=_TIME, help='Changed since: ISO 8601 with offset, or "2h" (ago).')
@click.option("--until", type=_TIME, help="Changed until.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", metavar="TEXT", help="The next page: what the page before ends with.")
@_json
@click.pass_context
def list_(context: click.Context, /, as_json: bool, status: tuple[str, ...], **filters: Any) -> None:
    """Runs, newest change first."""
    with _answering(context, as_json) as (runs, output):
        output.page(runs.list(status=status or None, **filters))


@steps.command()
@_name
@click.option("--attempts", is_flag=True, help="Also records that do not stand any more, and steps without an outcome.")
@click.option("--full", is_flag=True, help="Inputs, results and errors whole, with tracebacks; else a line each.")
@_json
@click.pass_context
def show(context: click.Context, as_json: bool, name: str, attempts: bool, full: bool) -> None:
    """One run: its state, its attempts and its recorded steps."""
    with _answering(context, as_json) as (runs, output):
        run = runs.get(name)
        try:
            records = runs.records(run.namespace, attempts=attempts)
        except RunRefused:  # its journal is lost: the run says so
            records = []
        output.run(run, records, full)


@steps.command()
@_name
@_json
@click.pass_context
def timeline(context: click.Context, as_json: bool, name: str) -> None:
    """One run as bars on a time axis: what took long, what overlapped, what it waits for. Long rests are cut short."""
    with _answering(context, as_json) as (runs, output):
        output.timeline(runs.timeline(name))


@steps.command()
@_name
@click.option("--mermaid", is_flag=True, help="Print a Mermaid flowchart, for a document.")
@_json
@click.pass_context
def graph(context: click.Context, as_json: bool, name: str, mermaid: bool) -> None:
    """One run as a flow graph: what followed what, and what ran side by side."""
    with _answering(context, as_json) as (runs, output):
        output.graph(runs.timeline(name), mermaid)


@steps.command()
@_name
@click.option("--level", type=click.Choice(LEVELS), default="debug", help="Only lines as grave as this, or graver.")
@click.option("--since", type=_TIME, help='Said since: ISO 8601 with offset, or "2h" (ago).')
@click.option("--limit", type=click.IntRange(1, 10_000), default=1000, show_default=True, help="At most so many: the newest.")
@_json
@click.pass_context
def logs(context: click.Context, /, as_json: bool, name: str, **filters: Any) -> None:
    """The lines that a run said with step.log, oldest first; for a namespace, those of all its runs."""
    with _answering(context, as_json) as (runs, output):
        output.logs(runs.logs(name, **filters))


@steps.command()
@click.argument("name", required=False, shell_complete=_complete("names"))
@click.option(
    "--last", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Begin with so many of what there was."
)
@_json
@click.pass_context
def tail(context: click.Context, /, as_json: bool, name: str | None, last: int) -> None:
    """Follow a run: its steps, log lines and status, until it is finished. Without NAME: every run's changes of status.

    With --json, one JSON document a line. Ctrl-C ends it.
    """
    with _answering(context, as_json) as (runs, output), suppress(KeyboardInterrupt):
        output.tail(runs.tail(name, last=last), name)


@steps.command()
@_name
@click.option("--output", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write it there.")
@_json
@click.pass_context
def export(context: click.Context, as_json: bool, name: str, output: str | None) -> None:
    """One run as a JSON document, to replay it against code. Holds what was recorded as it is, secrets too."""
    with _answering(context, as_json) as (runs, printer):
        printer.exported(runs.export(name), name, output)


@steps.command()
@click.argument("event")
@click.argument("data", type=_JSON, default="{}")
@click.option(
    "--to",
    metavar="NAME",
    shell_complete=_complete("names"),
    help="Only for this namespace or task id, where it is kept until a run waits for it.",
)
@click.option("--id", metavar="TEXT", help="The event's own id: sent again with it, it counts once.")
@click.option("--app", metavar="NAME", help="Start only tasks of the Celery app with this name.")
@_json
@click.pass_context
def emit(context: click.Context, /, as_json: bool, event: str, data: Any, **options: Any) -> None:
    """Send an event to whoever waits for it. DATA is JSON, {} if it is left out."""
    with _answering(context, as_json) as (runs, output):
        output.emitted(runs.emit(event, data, **options), options["to"])


@steps.command()
@_json
@click.pass_context
def stats(context: click.Context, as_json: bool) -> None:
    """How many runs have each status, and what waits."""
    with _answering(context, as_json) as (runs, output):
        output.stats(runs.stats())


@steps.command()
@_json
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Examine settings, Redis and the app. Ends with "ready", or with the one thing to do.

    Exit code 1 if a worker could not do its work.
    """
    with _answering(context, as_json) as (runs, output):
        findings = runs.doctor()
        output.findings(findings)
        if any(finding.level == "error" for finding in findings):
            context.exit(1)


@steps.command()
@click.option("--task", metavar="NAME", help="Only runs of this task.")
@_json
@click.pass_context
def check(context: click.Context, as_json: bool, task: str | None) -> None:
    """Rehearse every open run against the code as it is now, before a deploy. Exit code 1 if any would diverge."""
    with _answering(context, as_json) as (runs, output):
        checks = list(runs.check(task))
        output.checks(checks)
        if not all(check.ok for check in checks):
            context.exit(1)


@steps.command()
@click.argument("name", required=False, shell_complete=_complete("names"))
@click.option("--older-than", type=_DURATION, metavar="DURATION", help='Finished so long ago: "7d", "12h", seconds.')
@click.option("--status", multiple=True, type=click.Choice(FINAL), help="Only this status; can be given again.")
@_json
@click.pass_context
def purge(context: click.Context, as_json: bool, name: str | None, older_than: float | None, status: tuple[str, ...]) -> None:
    """Forget finished runs: those of NAME, or all that the options say."""
    if name is None and older_than is None and not status:
        raise click.UsageError("Say what to purge: NAME, --older-than or --status (--older-than 0 is every finished run).")
    with _answering(context, as_json) as (runs, output):
        output.count("purged", runs.purge(older_than=older_than, status=status or None, namespace=name))


def _asks(what: str, help: str) -> None:
    @steps.command(what, help=help)
    @_name
    @_json
    @click.pass_context
    def command(context: click.Context, as_json: bool, name: str) -> None:
        with _answering(context, as_json) as (runs, output):
            getattr(runs, what)(name)
            output.done(what, name)


_asks("cancel", "End a run as cancelled: at once where it waits, after the handler in progress where it runs.")
_asks("pause", "Let a run start no further step until it is unpaused.")
_asks("unpause", "Let a paused run carry on.")


@steps.command()
@_name
@click.option(
    "--from-step", metavar="KEY", shell_complete=_complete("keys"), help="Do this step and all that was recorded after it anew."
)
@click.option("--sequence", type=click.IntRange(1), default=1, show_default=True, help="Which use of KEY.")
@_json
@click.pass_context
def retry(context: click.Context, /, as_json: bool, name: str, **options: Any) -> None:
    """Let a run that failed or was cancelled begin again, with its recorded results."""
    with _answering(context, as_json) as (runs, output):
        runs.retry(name, **options)
        output.done("retry", name)


@steps.command()
@_name
@click.option(
    "--from-step", metavar="KEY", shell_complete=_complete("keys"), help="Copy only what was recorded before this step."
)
@click.option("--sequence", type=click.IntRange(1), default=1, show_default=True, help="Which use of KEY.")
@click.option("--namespace", metavar="NAME", help="Of the copy; by default its task id.")
@_json
@click.pass_context
def fork(context: click.Context, /, as_json: bool, name: str, **options: Any) -> None:
    """Start a copy of a run with what it has recorded. Prints its task id."""
    with _answering(context, as_json) as (runs, output):
        output.forked(runs.fork(name, **options))


@steps.command()
@_name
@click.argument("key", required=False, shell_complete=_complete("keys"))
@click.option("--sequence", type=click.IntRange(1), default=1, show_default=True, help="Which use of KEY.")
@click.option("--done", metavar="JSON", help="It had its effect: this is its result.")
@click.option("--failed", metavar="TEXT", help="It failed: this is raised.")
@click.option("--rerun", is_flag=True, help="It had no effect: its handler is called again.")
@_json
@click.pass_context
def resolve(
    context: click.Context, /, as_json: bool, name: str, key: str | None, done: str | None, failed: str | None, **options: Any
) -> None:
    """Say what became of a step in doubt: KEY, where several are."""
    if (done is not None) + (failed is not None) + options["rerun"] != 1:
        raise click.UsageError("Say one of --done JSON, --failed TEXT and --rerun.")
    if done is not None:
        try:
            options["done"] = json.loads(done)
        except ValueError as error:
            raise click.BadParameter(f"is no JSON: {error}", param_hint="--done") from None
    with _answering(context, as_json) as (runs, output):
        runs.resolve(name, key, failed=failed, **options)
        output.done("resolve", name)


@steps.command()
@_json
@click.pass_context
def sweep(context: click.Context, as_json: bool) -> None:
    """Publish the runs that are due, once. Workers do so all the time."""
    with _answering(context, as_json) as (runs, output):
        output.count("published", runs.sweep())


steps.add_command(web)
