"""What the service does by itself, beside computing: webhooks, and removing jobs whose time has come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog
from redis.exceptions import RedisError

from equipot.errors import ConflictError, JobNotFoundError
from equipot.service.access import Signer
from equipot.service.artifacts import Exports
from equipot.service.records import utc_now
from equipot.service.store import RETAINED, JobStore
from equipot.service.webhooks import Webhooks

log = structlog.get_logger()

CLEAN_EVERY_S = 60.0


class Chores:
    """A thread of the API process; several processes share the work."""

    def __init__(self, store: JobStore, signer: Signer, exports: Exports) -> None:
        self._store, self._exports = store, exports
        self._webhooks = Webhooks(store, signer)
        self._stopped = threading.Event()
        self._next_cleaning = 0.0

    def start(self) -> None:
        threading.Thread(target=self._go_on, daemon=True, name="chores").start()

    def stop(self) -> None:
        self._stopped.set()

    def remove_expired(self) -> int:
        """Delete every ended job whose `expires_at` has passed. Returns how many."""
        n_removed = 0
        for job_id in self._store.redis.smembers(RETAINED):
            try:
                record = self._store.get(job_id)
                if record.expires_at is None or record.expires_at > utc_now():
                    continue
                self._store.delete(job_id)
                self._exports.forget(job_id)
            except JobNotFoundError:
                self._store.redis.srem(RETAINED, job_id)
            except ConflictError:  # it was resumed in this moment
                continue
            else:
                n_removed += 1
                log.info("expired", job_id=job_id)
        return n_removed

    def _go_on(self) -> None:
        while not self._stopped.wait(self._store.settings.chores_s):
            self._guarded(self._webhooks.look)
            if time.monotonic() >= self._next_cleaning:
                self._next_cleaning = time.monotonic() + min(CLEAN_EVERY_S, 60 * self._store.settings.chores_s)
                self._guarded(self.remove_expired)

    @staticmethod
    def _guarded(chore: Callable[[], int]) -> None:
        """A chore that fails is tried again at the next round."""
        try:
            chore()
        except RedisError as error:
            log.warning("chore put off", error=type(error).__name__)
        except Exception:
            log.exception("chore failed")
