"""`celery -A proj steps web`: the console."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click

_NEEDS = ("jinja2", "starlette", "uvicorn")
#: Characters of a password that nobody guesses.
_SHORTEST = 12


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at. Any but this machine's needs --user.")
@click.option("--port", type=click.IntRange(0, 65535), default=5557, show_default=True, help="0: any that is free.")
@click.option("--read-only", is_flag=True, help="Only look: no action is possible.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name in the browser's address bar; can be given again.")
@click.option("--user", metavar="NAME", help="Ask for this user and a password.")
@click.option(
    "--password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its first line is the password."
)
@click.option("--prefix", metavar="PATH", default="", help="Path under which a proxy serves it, and which it takes away.")
@click.pass_context
def web(
    context: click.Context,
    /,
    host: str,
    port: int,
    read_only: bool,
    allow_host: tuple[str, ...],
    user: str | None,
    password_file: Path | None,
    prefix: str,
) -> None:
    """Serve the console: runs in a browser. Ctrl-C ends it."""
    if (user is None) != (password_file is None):
        raise click.UsageError("--user and --password-file go together.")
    if prefix and not prefix.startswith("/"):
        raise click.UsageError(f"--prefix is a path, which begins with a slash: /{prefix}")
    prefix = prefix.rstrip("/")
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        click.echo(f"The console needs {', '.join(missing)}: pip install 'celery-steps[web]'", err=True)
        context.exit(1)
    from celery_steps.errors import StepsError
    from celery_steps.settings import Settings
    from celery_steps.web import BasicAuth, create_app
    from celery_steps.web.guard import LOCAL, is_local
    from celery_steps.web.server import address, bind, serve

    if user is None and (open_to := [name for name in (*allow_host, host) if not is_local(name)]):
        raise click.UsageError(
            f"Everybody who reaches {open_to[0]!r} could look at runs{'' if read_only else ' and act on them'}: "
            "give --user and --password-file."
        )
    named = f"[{host}]" if ":" in host else host
    try:
        auth = None if user is None or password_file is None else BasicAuth(user, _password(password_file))
        Settings.of(context.obj.app)
        console = create_app(context.obj.app, read_only=read_only, hosts=(*LOCAL, named, *allow_host), auth=auth)
        listener = bind(host, port)
    except StepsError as error:
        click.echo(str(error), err=True)
        context.exit(1)
    with listener:
        click.echo(f"celery-steps console: {address(listener)}{prefix}/  (Ctrl-C ends it)")
        serve(console, listener, prefix)


def _password(file: Path) -> str:
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} cannot be read as UTF-8 text: {error}.") from error
    if not lines or len(lines[0]) < _SHORTEST:
        raise click.UsageError(
            f"The first line of {file} must be a password of at least {_SHORTEST} characters: openssl rand -base64 24 > {file}"
        )
    return lines[0]
