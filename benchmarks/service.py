"""What the service adds to the work itself. Each part starts a service of its own and prints one line for each figure.

relaxations   the same molecules posted one by one and in one `relax()` call, turn by turn
fairness      a small job alone, and while another with thousands of systems runs
submit        time of POST /v1/jobs at a given rate
first-step    from the job's arrival to its first step, on a warm worker
share         share of a worker's time spent inside the model, in dynamics of 500 atoms
workers       jobs per minute against the number of workers
readers       event streams read at once: whether each got everything, and how late
estimates     the seconds `validate_only` foretells against those the job then takes
api           memory and start of the API process
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from ase import Atoms
from ase.build import bulk
from ase.io import read
from serve_startup import free_port, wait_until_ok
from systems import HERE, molecules, show

from equipot.simulation.api import provider_for, relax

OVER = {"succeeded", "failed", "partially_succeeded", "cancelled"}
ORGANIC = ("H", "C", "N", "O")
RELAX = {"fmax_ev_per_ang": 0.05, "max_steps": 200}
PATIENCE_S = 3600.0
Rows = list[list[str]]


def as_json(atoms: Atoms) -> dict[str, Any]:
    periodic = bool(atoms.pbc.any())
    return {
        "symbols": list(atoms.symbols),
        "positions": atoms.get_positions().tolist(),
        "cell": atoms.cell.tolist() if periodic else None,
        "pbc": [bool(p) for p in atoms.pbc],
    }


@contextmanager
def service(workers: int, given: argparse.Namespace, model: str = "organic", **settings: Any) -> Iterator[httpx.Client]:
    """A service on a folder of its own, with every worker warm; the client knows its address."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        variables = {f"EQUIPOT_{name.upper()}": str(value) for name, value in settings.items()}
        variables |= {
            "EQUIPOT_COMPILE": str(given.compile),
            "EQUIPOT_PRELOAD_MODEL": model,
            "EQUIPOT_LOG_LEVEL": "error",
        }
        command = [str(Path(sys.executable).with_name("equipot")), "serve", "--port", str(port)]
        command += ["--data-dir", folder, "--workers", str(workers)]
        server = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **variables}
        )
        try:
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0, limits=limits) as client:
                wait_until_ok(client, "/readyz")
                while sum(worker["ready"] for worker in items(client, "/v1/workers")) < workers:
                    time.sleep(0.2)
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=90)


def items(client: httpx.Client, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(path).raise_for_status().json()["items"]
    return found


def post(client: httpx.Client, structures: Sequence[dict[str, Any]], kind: str = "relax", **fields: Any) -> str:
    """Submit a job; gives its id."""
    body = {"kind": kind, "structures": list(structures), **fields}
    return str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"])


def wait_until_over(client: httpx.Client, job_id: str) -> dict[str, Any]:
    while True:
        job: dict[str, Any] = client.get(f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"}).raise_for_status().json()
        if job["state"] in OVER:
            return job


def wait_until_idle(client: httpx.Client) -> None:
    """Until no job is left that has not ended."""
    give_up = time.monotonic() + PATIENCE_S
    while sum(client.get("/v1/queue").raise_for_status().json()["jobs"].values()):
        assert time.monotonic() < give_up
        time.sleep(0.1)


def events(client: httpx.Client, job_id: str) -> Iterator[tuple[int, str, dict[str, Any], float]]:
    """(milliseconds of the server's clock, type, data, seconds of this process's clock) until the job ends."""
    with client.stream("GET", f"/v1/jobs/{job_id}/events", timeout=300.0) as stream:
        found: dict[str, str] = {}
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event", "data"):
                found[name] = value
            elif not line and "data" in found:
                number = int(found.get("id", "0").partition("-")[0])
                yield number, found["event"], json.loads(found["data"]), time.time()
                if found["event"] == "end":
                    return
                found = {}


# -- parts


def relaxations(given: argparse.Namespace) -> Rows:
    """The same molecules, posted one by one and in one call."""
    systems = molecules(given.jobs, ORGANIC)
    bodies = [as_json(atoms) for atoms in systems]
    provider = provider_for("organic", compile=given.compile, dtype="float64", n_threads=given.workers)
    rows = []
    for number in range(given.rounds):
        before = time.perf_counter()
        results = relax(systems, provider, **RELAX)
        in_one_s = time.perf_counter() - before
        with service(given.workers, given) as client:
            before = time.perf_counter()
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda body: post(client, [body], params=RELAX), bodies))
            submitted_s = time.perf_counter() - before
            wait_until_idle(client)
            posted_s = time.perf_counter() - before
            jobs = items(client, "/v1/jobs?page_size=1000")
            assert all(job["state"] == "succeeded" for job in jobs), {job["state"] for job in jobs}
        steps = sum(result.n_steps for result in results)
        say = f"{posted_s:.1f} s ({submitted_s:.1f} s to submit) / {in_one_s:.1f} s = {posted_s / in_one_s:.2f}"
        rows.append([f"{len(systems)} relaxations posted / in one call, round {number + 1} ({steps} steps)", say])
    return rows


def fairness(given: argparse.Namespace) -> Rows:
    """A small job alone, and beside a large one."""
    many = [as_json(atoms) for atoms in molecules(given.crowd, ORGANIC)]
    small = [as_json(molecules(20, ORGANIC)[-1])]
    # a few hundred steps, so that its own time is that of its work
    job = {"kind": "md", "params": {"n_steps": given.small_steps, "seed": 1}}

    def seconds(client: httpx.Client) -> float:
        before = time.perf_counter()
        assert wait_until_over(client, post(client, small, **job))["state"] == "succeeded"
        return time.perf_counter() - before

    with service(given.workers, given, max_body_bytes=200_000_000) as client:
        seconds(client)
        alone = statistics.median(seconds(client) for _ in range(5))
        crowd = post(client, many, params=RELAX)
        while client.get(f"/v1/jobs/{crowd}").json()["progress"]["step"] < 1:
            time.sleep(0.1)
        beside = [seconds(client) for _ in range(5)]
        client.post(f"/v1/jobs/{crowd}/cancel")
        before = time.perf_counter()
        wait_until_over(client, crowd)
        cancelled = time.perf_counter() - before
    ratio = statistics.median(beside) / alone
    said = (
        f"{alone:.2f} s alone, {statistics.median(beside):.2f} s beside, {ratio:.2f} times; worst {max(beside):.2f} s"
    )
    return [
        [f"{given.small_steps} steps of dynamics beside {given.crowd} relaxations", said],
        [f"cancelling the {given.crowd}", f"{cancelled:.2f} s"],
    ]


def submit(given: argparse.Namespace) -> Rows:
    """Milliseconds of POST /v1/jobs at a fixed rate."""
    structure = as_json(molecules(1, ORGANIC)[0])
    times_ms: list[float] = []
    with service(given.workers, given) as client:
        wait_until_over(client, post(client, [structure], kind="singlepoint"))

        def one() -> None:
            before = time.perf_counter()
            post(client, [structure], kind="singlepoint")
            times_ms.append(1000 * (time.perf_counter() - before))

        with ThreadPoolExecutor(16) as pool:
            begun = time.perf_counter()
            for number in range(int(given.rate * given.seconds)):
                time.sleep(max(0.0, begun + number / given.rate - time.perf_counter()))
                pool.submit(one)
        wait_until_idle(client)
    quantiles = statistics.quantiles(times_ms, n=100)
    said = f"p50 {quantiles[49]:.1f} ms, p99 {quantiles[98]:.1f} ms ({len(times_ms)} jobs)"
    return [[f"POST /v1/jobs at {given.rate:g} a second, {given.workers} workers computing them", said]]


def first_step(given: argparse.Namespace) -> Rows:
    """Milliseconds by the server's clock from the event `queued` to the first progress with a step."""
    structure = as_json(molecules(1, ORGANIC)[0])
    waited_ms = []
    with service(given.workers, given) as client:
        for _ in range(20):
            job_id = post(client, [structure], kind="md", params={"n_steps": 300, "seed": 1})
            seen = [(when, kind, data) for when, kind, data, _ in events(client, job_id)]
            queued = next(when for when, kind, data in seen if kind == "state")
            moved = next(when for when, kind, data in seen if kind == "progress" and data["step"] > 0)
            waited_ms.append(moved - queued)
    said = f"median {statistics.median(waited_ms):.0f} ms, worst {max(waited_ms):.0f} ms"
    return [["queued to first step, warm", said]]


def share(given: argparse.Namespace) -> Rows:
    """Time inside the model over time at work, as the worker counts them."""
    silicon = bulk("Si", cubic=True).repeat(4)
    silicon = silicon[: len(silicon) - 12]
    silicon.rattle(0.05, seed=1)
    params = {"n_steps": given.share_steps, "seed": 1, "timestep_fs": 1.0, "temperature_k": 300}
    with service(1, given, model="elements") as client:
        wait_until_over(
            client, post(client, [as_json(silicon)], kind="md", model="elements", params={**params, "n_steps": 5})
        )
        time.sleep(4.0)
        before = counters(client)
        job = wait_until_over(client, post(client, [as_json(silicon)], kind="md", model="elements", params=params))
        assert job["state"] == "succeeded", job
        time.sleep(8.0)  # for the worker's counters to arrive
        after = counters(client)
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    inside, busy = spent["equipot_model_seconds_total"], spent["equipot_busy_seconds_total"]
    per_atom = 1e6 * inside / spent["equipot_atom_steps_total"]
    return [
        [
            f"share inside the model, dynamics of {len(silicon)} atoms",
            f"{100 * inside / busy:.1f} % ({per_atom:.1f} µs per atom and step)",
        ]
    ]


def counters(client: httpx.Client) -> dict[str, float]:
    """The sums over all labels of what /metrics counts."""
    found: dict[str, float] = {}
    for name, value in re.findall(
        r"^(equipot_\w+_total)(?:{[^}]*})? (\S+)$", client.get("/metrics").text, re.MULTILINE
    ):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def workers(given: argparse.Namespace) -> Rows:
    """Jobs per minute with one worker, two, ..."""
    bodies = [as_json(atoms) for atoms in molecules(given.worker_jobs, ORGANIC)]
    rows = []
    for n_workers in range(1, (os.cpu_count() or 1) + 1):
        with service(n_workers, given, threads_per_worker=1) as client:
            before = time.perf_counter()
            for body in bodies:
                post(client, [body], params=RELAX)
            wait_until_idle(client)
            per_minute = 60 * len(bodies) / (time.perf_counter() - before)
        rows.append([f"relaxations a minute, {n_workers} workers of one thread", f"{per_minute:.0f}"])
    return rows


def readers(given: argparse.Namespace) -> Rows:
    """Many streams of one job: all get every event, and the delay of the last."""
    structure = as_json(molecules(1, ORGANIC)[0])
    delays_ms: list[float] = []
    counts: list[tuple[int, ...]] = []
    lock = threading.Lock()
    with service(1, given) as client:
        job_id = post(client, [structure], kind="md", params={"n_steps": given.reader_steps, "seed": 1})
        server = str(client.base_url)

        def read() -> None:
            with httpx.Client(base_url=server, timeout=120.0) as own:
                begun = time.time()
                seen = list(events(own, job_id))
            with lock:
                live = [1000 * (here - when / 1000) for when, kind, _, here in seen if when / 1000 > begun + 1.0]
                delays_ms.extend(live)
                counts.append(tuple(when for when, kind, _, _ in seen))

        threads = [threading.Thread(target=read) for _ in range(given.readers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    longest = max(counts, key=len)
    complete = sum(set(longest) <= set(seen) for seen in counts)
    quantiles = statistics.quantiles(delays_ms, n=100)
    said = f"{complete} got all {len(longest)} events; delay p50 {quantiles[49]:.0f} ms, p99 {quantiles[98]:.0f} ms"
    return [[f"{given.readers} readers of one job", said]]


def estimates(given: argparse.Namespace) -> Rows:
    """What was foretold of each job over what it took, on a service that has just started and learns as it goes."""
    silicon, few = bulk("Si", cubic=True), molecules(20, ORGANIC)
    dynamics = {"kind": "md", "params": {"n_steps": 300, "seed": 1}}
    short = {"kind": "md", "model": "elements", "params": {"n_steps": 60, "seed": 1}}
    asked: dict[str, tuple[list[Atoms], dict[str, Any]]] = {
        "relax aspirin": ([read(HERE / "aspirin.xyz")], {"params": RELAX}),
        "relax 20 molecules": (few, {"params": RELAX}),
        "relax them again from elsewhere": (molecules(40, ORGANIC)[20:], {"params": RELAX}),
        "dynamics of a molecule": (few[:1], dynamics),
        "dynamics of 20 molecules": (few, dynamics),
        "energies of 200 molecules": (molecules(200, ORGANIC), {"kind": "singlepoint"}),
        "dynamics of 64 Si": ([silicon.repeat(2)], short),
        "dynamics of 512 Si": ([silicon.repeat(4)], short),
    }
    rows, ratios = [], []
    with service(1, given) as client:
        for name, (systems, fields) in asked.items():
            body = {"kind": "relax", "structures": [as_json(atoms) for atoms in systems], **fields}
            said = client.post("/v1/jobs?validate_only=true", json=body).raise_for_status().json()
            job = wait_until_over(client, str(client.post("/v1/jobs", json=body).raise_for_status().json()["id"]))
            begun, ended = (datetime.fromisoformat(job[key]) for key in ("started_at", "finished_at"))
            took_s = (ended - begun).total_seconds()
            ratios.append(said["seconds"] / took_s)
            rows.append([name, f"{said['seconds']:.2f} s foretold, {took_s:.2f} s taken, {ratios[-1]:.2f} times"])
    within = sum(0.5 <= ratio <= 2.0 for ratio in ratios)
    return [*rows, ["estimates within a factor of two", f"{within} of {len(ratios)}"]]


def api(given: argparse.Namespace) -> Rows:
    """Memory of the API process and seconds to its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        from equipot.service.redis_server import RedisServer

        starts, resident = [], 0.0
        with RedisServer(Path(folder)) as redis:
            for _ in range(5):
                port = free_port()
                variables = {"EQUIPOT_REDIS_URL": redis.url, "EQUIPOT_DATA_DIR": folder, "EQUIPOT_PORT": str(port)}
                before = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, "-m", "equipot.service.api"],
                    env={**os.environ, **variables},
                    stderr=subprocess.DEVNULL,
                )
                with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                    wait_until_ok(client, "/healthz")
                    starts.append(time.perf_counter() - before)
                    for _ in range(200):
                        client.post(
                            "/v1/jobs", json={"kind": "singlepoint", "structures": [as_json(molecules(1, ORGANIC)[0])]}
                        )
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    resident = max(resident, float(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024)
                    has_torch = "torch" in Path(f"/proc/{process.pid}/maps").read_text()
                process.terminate()
                process.wait(timeout=30)
    return [
        ["API process, seconds to its first answer", f"median {statistics.median(starts):.2f} s"],
        [
            "API process, memory after 200 submissions",
            f"{resident:.0f} MB, torch loaded: {'yes' if has_torch else 'no'}",
        ],
    ]


PARTS: dict[str, Callable[[argparse.Namespace], Rows]] = {
    "relaxations": relaxations,
    "fairness": fairness,
    "submit": submit,
    "first-step": first_step,
    "share": share,
    "workers": workers,
    "readers": readers,
    "estimates": estimates,
    "api": api,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if absent")
    parser.add_argument("--compile", action="store_true", help="compiled potentials, on both sides")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="worker processes (one for each core)")
    parser.add_argument("--jobs", type=int, default=1000, help="relaxations posted (1000)")
    parser.add_argument("--rounds", type=int, default=1, help="times they are (1)")
    parser.add_argument("--crowd", type=int, default=10_000, help="systems of the large job (10000)")
    parser.add_argument("--small-steps", type=int, default=300, help="steps of the small job beside it (300)")
    parser.add_argument("--rate", type=float, default=50.0, help="submissions a second (50)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for how long (20)")
    parser.add_argument("--share-steps", type=int, default=100, help="steps of dynamics of 500 atoms (100)")
    parser.add_argument("--worker-jobs", type=int, default=150, help="relaxations for each number of workers (150)")
    parser.add_argument("--readers", type=int, default=100, help="streams read at once (100)")
    parser.add_argument("--reader-steps", type=int, default=3000, help="steps of the job that is read (3000)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    rows = []
    for name in given.parts or PARTS:
        rows += PARTS[name](given)
        print(*rows[-1], f"(load {os.getloadavg()[0]:.1f})", flush=True)
    show("the service", ["what", "measured"], rows)


if __name__ == "__main__":
    main()
