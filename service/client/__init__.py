"""A service from Python: the same parameters, the same results, the same errors as running here.

    from equipot import Client
    client = Client("http://127.0.0.1:8000")
    (result,) = client.relax(atoms, fmax_ev_per_ang=0.01)

`Client` waits, `AsyncClient` is awaited; what they do is written once, in `asynchronous`, over a wire that either waits
or is awaited. Needs httpx only; ASE is loaded when Atoms go in or come out.
"""

from equipot.service.client.asynchronous import AsyncClient
from equipot.service.client.blocking import Client, RemoteJob
from equipot.service.client.job import AsyncJob

__all__ = ["AsyncClient", "AsyncJob", "Client", "RemoteJob"]
