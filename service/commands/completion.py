"""What a shell offers when Tab is pressed. Quick, and silent about everything that goes wrong."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice

from equipot.service.address import DEFAULT_SERVER, SERVER_VARIABLE

PATIENCE_S = 0.0
MOST_JOBS = 50


def model_names(incomplete: str) -> list[str]:
    """Models, their aliases and announced calculators."""
    with suppress(Exception):
        from equipot.calculator.plugins import find_calculators
        from equipot.cards import registry

        names = [name for _, card in registry().values() for name in (card.name, *card.aliases)]
        return sorted(name for name in {*names, *find_calculators()} if name.startswith(incomplete))
    return []


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """The newest jobs of the service, and what each is."""
    with suppress(Exception):
        from equipot.service.client import Client

        with Client(os.environ.get(SERVER_VARIABLE, DEFAULT_SERVER), patience_s=PATIENCE_S) as client:
            jobs = [job for job in islice(client.jobs(), MOST_JOBS) if job.id.startswith(incomplete)]
            return [(job.id, f"{job.record.kind} {job.record.model} {job.record.state.value}") for job in jobs]
    return []
