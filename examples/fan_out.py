"""Every text file of a folder is read by a task of its own, side by side, and one report comes out of it.

Needs a Redis on localhost, and two terminals in this folder. Kill a process of the worker meanwhile: no file is read twice
whose words were counted.

celery -A fan_out worker
python fan_out.py /usr/share/doc
"""

import sys
from pathlib import Path

from celery import Celery

from celery_steps import DurableTask

app = Celery("fan_out", broker="redis://localhost/0", backend="redis://localhost/1")
app.conf.steps_backend = "redis://localhost/2"


def texts_in(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.txt"))[:100]


def words_in(path: str) -> int:
    return len(Path(path).read_text(errors="replace").split())


@app.task(bind=True, base=DurableTask)
def count(self: DurableTask, path: str) -> int:
    return self.step.run("count", path, words_in)


@app.task(bind=True, base=DurableTask)
def report(self: DurableTask, folder: str) -> dict[str, int]:
    paths = self.step.run("list", folder, texts_in)  # what is there may change, what was found is recorded
    with self.step.parallel() as p:
        words = [p.run_task("words", count, (path,)) for path in paths]
        sizes = [p.run("size", path, lambda path: Path(path).stat().st_size) for path in paths]
    # All is known here. While the tasks were at it, this run had left its worker.
    return {
        "files": len(paths),
        "words": sum(future.result() for future in words),
        "bytes": sum(future.result() for future in sizes),
    }


if __name__ == "__main__":
    print(report.delay(sys.argv[1]).get())
