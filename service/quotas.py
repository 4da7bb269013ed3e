"""What one key may use: requests in a minute, and jobs at once."""

from __future__ import annotations

from redis import Redis

from equipot.errors import QuotaExceededError, RateLimitedError
from equipot.service.access import Caller
from equipot.service.scripts import Scripts


class Quotas:
    """Counts in Redis, so that every API process counts together."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)

    def admit(self, caller: Caller) -> None:
        """Count a request. Raises RateLimitedError; a quiet minute gives the whole allowance back."""
        most = caller.limits.requests_per_minute
        if most is None:
            return
        wait_ms = int(self._scripts.run("rate", f"equipot:rate:{caller.key_id}", most, 60_000))
        if wait_ms:
            seconds = max(1, -(-wait_ms // 1000))
            raise RateLimitedError(f"The API key allows {most} requests in a minute.", hint=f"Wait {seconds} s.")

    def reserve_job(self, caller: Caller, job_id: str) -> None:
        """Count a job until it ends; one that does not come about counts for a minute. Raises QuotaExceededError."""
        most = caller.limits.max_concurrent_jobs
        if most is not None and not self._scripts.run("quota", f"equipot:quota:{caller.key_id}", job_id, most):
            raise QuotaExceededError(
                f"The API key allows {most} jobs at once.", hint="Wait until one of yours has ended, or cancel one."
            )


def check_steps(caller: Caller, n_steps: int) -> None:
    """Raises QuotaExceededError for a job of too many steps."""
    most = caller.limits.max_steps
    if most is not None and n_steps > most:
        raise QuotaExceededError(
            f"The job may take {n_steps} steps; the API key allows {most}.",
            pointer="/params",
            hint="Ask for fewer steps.",
        )
