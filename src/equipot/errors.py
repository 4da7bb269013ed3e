"""Everything that can go wrong, as one tree.

    EquipotError                     internal
    ├── InputError                   (never raised itself)
    │   ├── InvalidParameterError    invalid-parameter
    │   ├── InvalidStructureError    invalid-structure
    │   │   └── AtomsTooCloseError   atoms-too-close
    │   ├── UnsupportedElementError  unsupported-element
    │   ├── UnsupportedFormatError   unsupported-format
    │   ├── SystemTooLargeError      system-too-large
    │   ├── PayloadTooLargeError     payload-too-large
    │   └── UnknownModelError        unknown-model
    ├── InvalidWeightsError          invalid-weights
    ├── JobError                     (never raised itself)
    │   ├── JobNotFoundError         job-not-found
    │   ├── ConflictError            conflict
    │   ├── NotResumableError        not-resumable
    │   ├── DamagedDataError         damaged-data
    │   ├── IdempotencyKeyInUseError idempotency-key-in-use
    │   ├── IdempotencyKeyReusedError idempotency-key-reused
    │   ├── QueueFullError           queue-full
    │   ├── UnavailableError         unavailable
    │   ├── RateLimitedError         rate-limited
    │   ├── QuotaExceededError       quota-exceeded
    │   ├── UnauthorizedError        unauthorized
    │   └── ForbiddenError           forbidden
    └── RunError                     (never raised itself)
        ├── OutOfMemoryError         out-of-memory
        ├── NonFiniteError           non-finite
        ├── DivergedError            diverged
        ├── WorkerLostError          worker-lost
        └── TimedOutError            timeout

`code` is stable and appears in every report: the HTTP API turns it into the `type` of a problem (RFC 9457), the
command line prints it, a job record keeps it. `culprits` say where: a JSON pointer into what the user sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self


@dataclass(frozen=True)
class Culprit:
    """One place in the input that is wrong, and what to do about it."""

    pointer: str  #: JSON pointer (RFC 6901) into the request, "" for the whole of it
    message: str
    hint: str = ""


class EquipotError(Exception):
    """The base of every error equipot raises on purpose."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong inside equipot"

    def __init__(self, detail: str, *, pointer: str = "", hint: str = "", culprits: Iterable[Culprit] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.culprits = tuple(culprits) or ((Culprit(pointer, detail, hint),) if pointer else ())

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}".strip()

    def __reduce__(self) -> tuple[Any, ...]:
        return error_from_problem, (self.as_problem(),)

    def as_problem(self) -> dict[str, Any]:
        """The error as the JSON object kept in records and sent over HTTP (without status and instance)."""
        return {
            "type": f"/problems/{self.code}",
            "title": self.title,
            "detail": self.detail,
            "hint": self.hint,
            "errors": [{"code": self.code, **asdict(culprit)} for culprit in self.culprits],
        }

    def moved_under(self, prefix: str) -> Self:
        """The same error with `prefix` put before every pointer, for a part checked on its own."""
        culprits = [Culprit(prefix + c.pointer, c.message, c.hint) for c in self.culprits]
        return type(self)(self.detail, hint=self.hint, culprits=culprits or [Culprit(prefix, self.detail, self.hint)])


class InputError(EquipotError):
    """What was given cannot be used; nothing was started."""


class InvalidParameterError(InputError):
    code = "invalid-parameter"
    title = "A parameter is not valid"


class InvalidStructureError(InputError):
    code = "invalid-structure"
    title = "A structure is not valid"


class AtomsTooCloseError(InvalidStructureError):
    code = "atoms-too-close"
    title = "Two atoms are too close together"


class UnsupportedElementError(InputError):
    code = "unsupported-element"
    title = "The potential does not know an element"


class UnsupportedFormatError(InputError):
    code = "unsupported-format"
    title = "The file format is not supported"


class SystemTooLargeError(InputError):
    code = "system-too-large"
    title = "A structure has too many atoms"


class PayloadTooLargeError(InputError):
    code = "payload-too-large"
    title = "The request is too large"


class UnknownModelError(InputError):
    code = "unknown-model"
    title = "There is no such model"


class InvalidWeightsError(EquipotError):
    code = "invalid-weights"
    title = "The weights of a potential cannot be trusted or read"


class JobError(EquipotError):
    """A job cannot do what was asked of it."""


class JobNotFoundError(JobError):
    code = "job-not-found"
    title = "There is no such job"


class ConflictError(JobError):
    code = "conflict"
    title = "The job is not in a state that allows this"


class NotResumableError(JobError):
    code = "not-resumable"
    title = "The job cannot be resumed"


class DamagedDataError(JobError):
    code = "damaged-data"
    title = "A file of the run is damaged"


class IdempotencyKeyInUseError(JobError):
    code = "idempotency-key-in-use"
    title = "A request with this Idempotency-Key is being handled"


class IdempotencyKeyReusedError(JobError):
    code = "idempotency-key-reused"
    title = "The Idempotency-Key was used for a different request"


class QueueFullError(JobError):
    code = "queue-full"
    title = "The queue is full"


class UnavailableError(JobError):
    code = "unavailable"
    title = "The service cannot do this right now"


class RateLimitedError(JobError):
    code = "rate-limited"
    title = "Too many requests"


class QuotaExceededError(JobError):
    code = "quota-exceeded"
    title = "The API key does not allow so much"


class UnauthorizedError(JobError):
    code = "unauthorized"
    title = "A valid API key is needed"


class ForbiddenError(JobError):
    code = "forbidden"
    title = "The API key does not allow this"


class RunError(EquipotError):
    """A run had to end early; what was written before stays valid."""


class OutOfMemoryError(RunError):
    code = "out-of-memory"
    title = "The structure does not fit into memory"


class NonFiniteError(RunError):
    code = "non-finite"
    title = "Energy or forces are not finite"


class DivergedError(RunError):
    code = "diverged"
    title = "The run diverged"


class WorkerLostError(RunError):
    code = "worker-lost"
    title = "Workers died while running the job"


class TimedOutError(RunError):
    code = "timeout"
    title = "The job used up its wall time"


def _subclasses(cls: type[EquipotError]) -> Iterable[type[EquipotError]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from _subclasses(sub)


def error_classes() -> dict[str, type[EquipotError]]:
    """Every error class by its stable code."""
    return {cls.code: cls for cls in _subclasses(EquipotError) if "code" in vars(cls)}


def error_from_problem(problem: Mapping[str, Any]) -> EquipotError:
    """The error a problem object stands for: what crossed a process or the network comes back typed."""
    code = str(problem.get("type", "")).rpartition("/")[2]
    cls = error_classes().get(code, EquipotError)
    culprits = [Culprit(e["pointer"], e["message"], e.get("hint", "")) for e in problem.get("errors", ())]
    return cls(str(problem.get("detail", "")), hint=str(problem.get("hint", "")), culprits=culprits)
