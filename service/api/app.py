"""The HTTP application: thin routes over the job store.

It never imports torch, and ASE only inside the children that read files and for downloads in ASE's own format.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType

from fastapi import Depends, FastAPI

from equipot import __version__
from equipot.service.access import KeyFile, Signer
from equipot.service.api import problems
from equipot.service.api.access import Access
from equipot.service.api.context import PROBLEMS, Services, refuse_unknown_query
from equipot.service.api.metrics import Metrics
from equipot.service.api.middleware import BodyLimit, RequestFrame, SameSite
from equipot.service.api.openapi import describe
from equipot.service.api.routes import (
    artifacts,
    evaluate,
    frames,
    jobs,
    models,
    operations,
    pages,
    results,
    structures,
)
from equipot.service.api.sse import EventHub
from equipot.service.api.uploads import FileReader
from equipot.service.artifacts import Exports
from equipot.service.chores import Chores
from equipot.service.desk import Desk
from equipot.service.logs import configure_logs
from equipot.service.quotas import Quotas
from equipot.service.redis_server import connect
from equipot.service.settings import Settings
from equipot.service.store import JobStore

DESCRIPTION = (
    "Relaxes structures and runs molecular dynamics with a trained E(3)-equivariant potential. "
    "Units stand in every name; unknown fields are refused; every error is a problem (RFC 9457) that says where and "
    "what to do."
)


def create_app(settings: Settings | None = None, store: JobStore | None = None) -> FastAPI:
    """The application. `settings.redis_url` must be set unless a `store` is given: the API starts no Redis."""
    settings = settings or Settings()
    store = store or _store(settings)

    closing = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        configure_logs(settings)
        threading.Thread(target=_warm_up, args=(app.state.services.reader,), daemon=True).start()
        chores = Chores(store, signer, exports)
        chores.start()
        with _told_to_stop(closing):
            yield
        chores.stop()

    app = FastAPI(
        title="equipot",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=PROBLEMS,
        dependencies=[Depends(refuse_unknown_query)],
    )
    metrics = Metrics()
    keys, signer, quotas, exports = (
        KeyFile(settings.data_dir),
        Signer(settings.data_dir),
        Quotas(store.redis),
        Exports(settings.data_dir),
    )
    app.state.services = Services(
        settings=settings,
        store=store,
        metrics=metrics,
        reader=FileReader(),
        hub=EventHub(store, closing),
        desk=Desk(store.redis),
        exports=exports,
        keys=keys,
        signer=signer,
        quotas=quotas,
        closing=closing,
    )
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    for module in (jobs, evaluate, results, frames, artifacts, structures, models, operations, pages):
        app.include_router(module.router)
    problems.install(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(SameSite)
    app.add_middleware(Access, settings=settings, keys=keys, signer=signer, quotas=quotas)
    app.add_middleware(RequestFrame, metrics=metrics)
    return app


def _warm_up(reader: FileReader) -> None:
    """Have the reading of files ready before the first file comes; if that fails, the first file will say why."""
    with suppress(Exception):
        reader.warm_up()


@contextmanager
def _told_to_stop(closing: asyncio.Event) -> Iterator[None]:
    """Set `closing` at SIGTERM or SIGINT: a server tells the app only after its streams have ended, and so never."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def tell(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(closing.set)
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in handlers:
        signal.signal(number, tell)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _store(settings: Settings) -> JobStore:
    if settings.redis_url is None:
        raise ValueError("The API needs a Redis: set EQUIPOT_REDIS_URL, or use `equipot serve`, which starts one.")
    return JobStore(connect(settings.redis_url), settings.data_dir, settings)
