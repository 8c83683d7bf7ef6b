"""What must hold of a case, whoever was killed where: read from the journals, the ledger of effects and the result backend."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from celery_steps.engine import entries as fmt
from celery_steps.store.keys import RunId
from celery_steps.store.replies import Entry
from celery_steps.store.store import Store
from crash.programs import Program, Run

Id = tuple[int, int]


def _id(text: str) -> Id:
    fence, n = text.split("-")
    return int(fence), int(n)


@dataclass
class Record:
    """A recorded outcome, and the entry that took it back (a retry that reopened it, or a replace)."""

    id: Id
    ok: bool
    until: Id | None = None

    def stands_at(self, at: Id) -> bool:
        return self.id <= at and (self.until is None or at < self.until)


@dataclass
class History:
    """A namespace's journal."""

    records: dict[fmt.Identity, list[Record]] = field(default_factory=dict)
    owners: list[tuple[Id, str]] = field(default_factory=list)  # process id by claim
    twice: list[fmt.Identity] = field(default_factory=list)

    @classmethod
    def of(cls, entries: list[Entry]) -> History:
        history = cls()
        for entry in entries:
            at = _id(entry.id)
            if entry.kind in ("attempt", "borrow"):
                history.owners.append((at, fmt.read_call(entry).token.split("/")[1]))
            elif entry.kind == "step":
                step = fmt.read_step(entry)
                if history.standing((step.key, step.sequence)):
                    history.twice.append((step.key, step.sequence))
                history.records.setdefault((step.key, step.sequence), []).append(Record(at, step.ok))
            elif entry.kind == "retry":
                for key, sequence in fmt.read(entry)[2]:
                    history._take_back((key, sequence), at)
            elif entry.kind == "finish" and fmt.read_finish(entry).outcome == "replaced":
                for identity in history.records:
                    history._take_back(identity, at)
        return history

    def _take_back(self, identity: fmt.Identity, at: Id) -> None:
        record = self.standing(identity)
        if record is not None:
            record.until = at

    def standing(self, identity: fmt.Identity) -> Record | None:
        records = self.records.get(identity, [])
        return records[-1] if records and records[-1].until is None else None

    def owner_at(self, at: Id) -> str:
        return next((process for id, process in reversed(self.owners) if id <= at), "")


@dataclass
class Findings:
    """Sums over cases."""

    cases: int = 0
    runs: int = 0
    kills: int = 0
    effects: int = 0
    repeated: int = 0  # effects beyond those of the same program undisturbed
    stale: int = 0  # effects of an owner that had been replaced without being killed
    callbacks_again: int = 0  # sent again, as the state was not stored yet when the process died
    duplicates: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Judge:
    """Looks at finished cases."""

    def __init__(self, store: Store, ledger: Any, backend: Any) -> None:
        self.store = store
        self.ledger = ledger
        self.backend = backend
        self.findings = Findings()

    def effects(self, case: str) -> list[str]:
        return [line.decode() for line in self.ledger.lrange(f"ledger:{case}", 0, -1)]

    def stored(self, task_id: str) -> tuple[str, object] | None:
        """What the result backend shows."""
        text = self.backend.get(f"celery-task-meta-{task_id}")
        if text is None:
            return None
        meta = json.loads(text)
        result = meta["result"]
        return meta["status"], result.get("exc_type", result) if isinstance(result, dict) else result

    def settled(self, run: Run) -> bool:
        fields = self.store.fields(run.namespace or run.id)
        return all(f"{RunId(run.task, run.id, nesting)}:settled" in fields for nesting in range(run.nestings))

    def judge(self, case: str, program: Program, who: str) -> None:
        """Note every violation, each with `who`: how to get the same case again."""
        found = self.findings
        for run in program.runs(case):
            found.runs += 1
            if not self.settled(run):
                found.lost.append(f"{who}: run {run.id} is not settled")
            fields = self.store.fields(run.namespace or run.id)
            status = fields.get(f"{RunId(run.task, run.id, run.nestings - 1)}:status")
            if status != run.status:
                found.wrong.append(f"{who}: run {run.id} is {status}, not {run.status}")
            if self.stored(run.id) != run.result:
                found.wrong.append(f"{who}: the backend shows {self.stored(run.id)} for {run.id}, not {run.result}")
        steps = [(namespace.format(case=case), key, sequence) for namespace, key, sequence in program.steps]
        effects = self.effects(case)
        found.effects += len(effects)
        namespaces = {namespace for namespace, _, _ in steps} | {line.split(" ")[0] for line in effects}
        histories = {namespace: History.of(list(self.store.entries(namespace))) for namespace in namespaces}
        for namespace, history in histories.items():
            found.duplicates += [f"{who}: {namespace} {identity} is recorded twice" for identity in history.twice]
        for namespace, key, sequence in steps:
            record = histories[namespace].standing((key, sequence))
            if record is None:
                found.lost.append(f"{who}: {namespace} {key} {sequence} is not recorded")
            elif record.ok is (key in program.failures):
                found.wrong.append(f"{who}: {namespace} {key} {sequence} is recorded as {record.ok}")
        self._judge_effects(effects, histories, steps, who)
        had = Counter(line.split(" ")[1] for line in effects)
        found.duplicates += [f"{who}: {key} had its effect {had[key]} times" for key in program.once if had[key] > 1]
        undone = [line.decode() for line in self.ledger.lrange(f"undone:{case}", 0, -1)]
        if list(dict.fromkeys(undone)) != program.undone:
            found.wrong.append(f"{who}: undone is {undone}, not {program.undone}")

    def _judge_effects(
        self, effects: list[str], histories: dict[str, History], steps: list[tuple[str, str, int]], who: str
    ) -> None:
        found = self.findings
        had: Counter[tuple[str, str, int]] = Counter()
        for line in effects:
            namespace, key, sequence, _, process, last = line.split(" ")
            history, at = histories[namespace], _id(last)
            had[namespace, key, int(sequence)] += 1
            if any(record.stands_at(at) for record in history.records.get((key, int(sequence)), [])):
                if history.owner_at(at) == process:
                    found.duplicates.append(f"{who}: {namespace} {key} {sequence} executed again after its record")
                else:
                    found.stale += 1
        found.lost += [f"{who}: {step} is recorded without effect" for step in steps if not had[step]]
