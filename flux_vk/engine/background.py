"""Work beside the thread that loads a model: started together, waited for together, the first error told.

Not for: work that outlives the `with` block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
Progress = Callable[[int, int], None]


class Job(Generic[T]):
    """One function in a thread of its own."""

    def __init__(self, body: Callable[[], T]) -> None:
        self._body: Callable[[], T] | None = body
        self._value: list[T] = []
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="flux_vk load", daemon=True)

    def _run(self) -> None:
        assert self._body is not None
        try:
            self._value.append(self._body())
        except BaseException as error:  # told by Background, in the thread that waits
            self.error = error
        self._body = None  # and what it holds

    def result(self) -> T:
        """What the function returned. Raises what it raised."""
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self._value[0]


class Background:
    """A `with` block at whose end all jobs have ended, however it is left. Raises the first job's error there."""

    def __init__(self) -> None:
        self._jobs: list[Job[object]] = []

    def start(self, body: Callable[[], T]) -> Job[T]:
        """Run `body` beside this thread."""
        job = Job(body)
        job.thread.start()
        self._jobs.append(job)  # type: ignore[arg-type]  # its value is not looked at here
        return job

    def check(self) -> None:
        """Raises the error of a job that has failed already."""
        for job in self._jobs:
            if job.error is not None:
                raise job.error

    def watched(self, progress: Progress | None) -> Progress:
        """`progress`, which also fails as soon as a job has."""

        def tell(done: int, total: int) -> None:
            self.check()
            if progress is not None:
                progress(done, total)

        return tell

    def __enter__(self) -> Background:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for job in self._jobs:
            job.thread.join()
        if error is None:
            self.check()
