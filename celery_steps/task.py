"""DurableTask: the seam with a task's life in Celery."""

from __future__ import annotations

import functools
import inspect
import string
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote

from celery import signals
from celery.app.task import Context, Task

from celery_steps import eager
from celery_steps.engine.attempt import current
from celery_steps.engine.identity import check_namespace
from celery_steps.errors import JournalLost, RunRefused, StepsError, TooManyCrashes
from celery_steps.verbs import CurrentStep, Step, step
from celery_steps.worker import messages, notices, runtime, triggers
from celery_steps.worker.delivery import Delivery, latest
from celery_steps.worker.revoke import extend_commands
from celery_steps.worker.sweeper import Sweeper

#: The delivery whose `retry` is preparing a ticket.
_retrying: ContextVar[Delivery | None] = ContextVar("celery_steps_retrying", default=None)


class DurableTask(Task):  # type: ignore[misc]
    """A Celery task whose steps are recorded: retried, redelivered, killed or moved, it carries on after its last completed step.

    `@app.task(bind=True, base=DurableTask)`, or `Celery(task_cls=DurableTask)`. Without a step it is a plain task that
    acknowledges late.

    Attributes:
        namespace: names the workflow instance of a call: text formatted with the call's bound arguments (each
            percent-encoded), or a callable that gets the call's arguments. Default: the task id.
        before_commit: called with the step (as `current_step()`) and its result before each `step.run` is recorded, never on
            replay. What it returns is kept with the record, as `reference`. If it raises, the step is not recorded.
        triggers: names of events: a broadcast of one starts the task with the event's data as its one argument.
    """

    acks_late = True
    reject_on_worker_lost = True
    namespace: str | Callable[..., str] | None = None
    before_commit: Callable[[CurrentStep, Any], Any] | None = None
    triggers: tuple[str, ...] = ()
    Request = "celery_steps.worker.verdicts:Request"
    _track_started: bool | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__
        body = next(base.__dict__["run"] for base in cls.__mro__ if "run" in base.__dict__)
        if body is not Task.__dict__["run"] and not hasattr(body, "records_steps"):  # its own, or a mixin's
            cls.run = _wrapped_run(body)
        for hook in ("on_success", "on_failure", "on_retry"):
            found = next(base.__dict__[hook] for base in cls.__mro__ if hook in base.__dict__)
            if not hasattr(found, "settles"):  # its own, or a mixin's
                setattr(cls, hook, _wrapped_hook(hook, found))
        if "track_started" in own and not isinstance(own["track_started"], property):
            cls._track_started = own["track_started"]
            del cls.track_started
        if "triggers" in own:
            cls.triggers = triggers.check(own["triggers"], f"triggers of the task {own.get('name') or cls.__name__}")
        for name in ("namespace", "before_commit"):  # called with their arguments, not with the task
            if inspect.isfunction(own.get(name)):
                setattr(cls, name, staticmethod(own[name]))

    @property
    def step(self) -> Step:
        """The steps of the run whose body is executing."""
        return step

    @property
    def track_started(self) -> bool:
        """False to Celery's tracer, which would write STARTED over anything at each delivery; the delivery writes it."""
        return False

    def tracks_started(self) -> bool:
        """Whether STARTED is wanted, by `track_started` or the setting task_track_started."""
        wanted = type(self)._track_started
        return bool(self.app.conf.task_track_started if wanted is None else wanted)

    # -- sending ----------------------------------------------------------------------------------------------------

    def apply_async(self, args: Any = None, kwargs: Any = None, *positional: Any, **options: Any) -> Any:
        """As Celery's, with `namespace=`: the workflow instance of this call. It is fixed here and travels with the message."""
        namespace = options.pop("namespace", None)
        if namespace is not None:
            check_namespace(namespace, f"apply_async's namespace for {self.name}")
        elif messages.NAMESPACE not in (options.get("headers") or {}):
            namespace = self.namespace_for(args or (), kwargs or {})
        if namespace is not None:
            options["headers"] = {**(options.get("headers") or {}), messages.NAMESPACE: namespace}
        return super().apply_async(args, kwargs, *positional, **options)

    def namespace_for(self, args: Any, kwargs: Any) -> str | None:
        """What the task's `namespace` says for these arguments, None if it says nothing: then it is the task id."""
        template = self.namespace
        if template is None:
            return None
        said_by = f"The namespace of {self.name}"
        try:
            if callable(template):
                return check_namespace(template(*args, **kwargs), said_by)
            bound = inspect.signature(self.run).bind(*args, **kwargs)
            bound.apply_defaults()
            return check_namespace(_PercentEncoded().vformat(template, (), bound.arguments), said_by)
        except StepsError:
            raise
        except Exception as error:
            raise StepsError(
                f"{said_by} ({template!r}) cannot be made from args {args!r:.80} and kwargs {kwargs!r:.80}: {error!r}"
            ) from error

    def namespace_of(self, request: Context) -> str:
        """The namespace of a delivered call: from its header, or as for `apply_async` where it was sent by name."""
        found = messages.header(request, messages.NAMESPACE) or self.namespace_for(request.args or (), request.kwargs or {})
        return str(found or request.id)

    # -- retrying ---------------------------------------------------------------------------------------------------

    def retry(self, *args: Any, **options: Any) -> Any:
        """As Celery's. The retry of a run that has begun a step is a ticket in Redis, not a message with an ETA."""
        delivery, attempt = _delivery_of(self.request), current.get()
        if attempt is not None and attempt.rehearses:
            attempt.before_effect()
        if delivery is None or not (delivery.attempt.owner or delivery.attempt.lost):
            return super().retry(*args, **options)
        error = options.get("exc")
        if delivery.attempt.lost or isinstance(error, (TooManyCrashes, JournalLost, RunRefused)):
            raise error or JournalLost  # final: it would only come back to the same end
        token = _retrying.set(delivery)
        try:
            retry = super().retry(*args, **options)
        finally:
            _retrying.reset(token)
        delivery.unthrown(retry)  # throw=False
        return retry

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, *more: Any, **options: Any
    ) -> Any:
        """As Celery's. While `retry` prepares a ticket, what it would publish is kept instead."""
        delivery = _retrying.get()
        if delivery is not None:
            args = delivery.snapshot.args if args is None else args
            kwargs = delivery.snapshot.kwargs if kwargs is None else kwargs
        signature = super().signature_from_request(request, args, kwargs, *more, **options)
        if delivery is not None:
            prepared = {**signature.options, **options}
            signature.apply_async = lambda: delivery.prepare_retry(signature.args, signature.kwargs, prepared)
        return signature

    def replace(self, sig: Any) -> Any:
        """As Celery's. What takes this run's place starts with an empty journal."""
        delivery, attempt = _delivery_of(self.request), current.get()
        if attempt is not None and attempt.rehearses:
            attempt.before_effect()
        if delivery is not None:
            delivery.replaced = True
        return super().replace(sig)

    # -- hooks: Celery has stored the result -------------------------------------------------------------------------

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """As Celery's."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """As Celery's."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """As Celery's."""


class _PercentEncoded(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return quote(str(super().format_field(value, format_spec)), safe="", errors="surrogatepass")


def _delivery_of(request: Context) -> Delivery | None:
    """The delivery of this very request, in this context."""
    delivery = latest.get()
    return delivery if delivery is not None and delivery.request is request else None


# -- wrapping -----------------------------------------------------------------------------------------------------------


def _wrapped_hook(name: str, hook: Any) -> Any:
    function = hook.__func__ if isinstance(hook, staticmethod) else hook

    @functools.wraps(function)
    def wrapper(self: DurableTask, *args: Any, **kwargs: Any) -> Any:
        task_id = args[1] if len(args) > 1 else kwargs.get("task_id")
        delivery = latest.get()
        # The main process calls these hooks too, where no delivery is.
        if delivery is not None and delivery.request.id == task_id and not delivery.attempt.active:
            if name == "on_retry":
                delivery.stored_retry()
            else:
                delivery.stored("succeeded" if name == "on_success" else "failed", args[0] if name == "on_failure" else None)
        return function(*args, **kwargs) if isinstance(hook, staticmethod) else function(self, *args, **kwargs)

    wrapper.settles = True  # type: ignore[attr-defined]
    return wrapper


for _hook in ("on_success", "on_failure", "on_retry"):
    setattr(DurableTask, _hook, _wrapped_hook(_hook, DurableTask.__dict__[_hook]))


def _wrapped_run(run: Any) -> Any:
    """Wrap a task's body, bound (a function) or not (a staticmethod)."""
    unbound = isinstance(run, staticmethod)
    function = run.__func__ if unbound else run
    if not callable(function):
        return run

    @functools.wraps(function)
    def wrapper(self: DurableTask, *args: Any, **kwargs: Any) -> Any:
        body = function if unbound else functools.partial(function, self)
        return _execute(self, body, args, kwargs)

    wrapper.records_steps = True  # type: ignore[attr-defined]
    if unbound:  # what Celery inspects is the bound method: its first parameter is dropped
        signature = inspect.signature(function)
        first = inspect.Parameter("_task", inspect.Parameter.POSITIONAL_ONLY)
        parameters = list(signature.parameters.values())
        wrapper.__signature__ = signature.replace(parameters=[first, *parameters])  # type: ignore[attr-defined]
    return wrapper


def _execute(task: DurableTask, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    request = task.request
    outer = current.get()
    if outer is not None and outer.active and outer.request is request and not request.called_directly:
        return body(*args, **kwargs)  # super().run()
    if request.called_directly or request.is_eager:
        return eager.execute(task, request, body, args, kwargs, outer)
    parts = runtime.of(task.app)
    delivery = Delivery(task, request, task.namespace_of(request), parts.store, parts.codec, parts.heartbeat, parts.doors)
    return delivery.run(body, args, kwargs)


@signals.worker_init.connect
def _prepare_worker(sender: Any = None, **_: Any) -> None:
    """A worker whose app has durable tasks gets a sweeper, its `revoke` cancels runs, and its tasks tell their parents."""
    if any(isinstance(task, DurableTask) for task in sender.app.tasks.values()):
        extend_commands()
        notices.connect()
        sender.app.steps["worker"].add(Sweeper)
