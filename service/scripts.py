"""The Lua scripts by which the service's state in Redis is changed, one call for each."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis

from equipot.errors import EquipotError


@cache
def _source(name: str) -> str:
    folder = files("equipot.service") / "lua"
    return (folder / "common.lua").read_text("utf-8") + (folder / f"{name}.lua").read_text("utf-8")


class Scripts:
    """Runs `service/lua/NAME.lua`; every script is one atomic step."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._loaded: dict[str, Any] = {}

    def run(self, name: str, *arguments: str | int | float) -> Any:
        """The script's answer, with text as str."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self._redis.register_script(_source(name))
        return script(keys=[], args=list(arguments))


def require_text(redis: Redis) -> None:
    """Refuse a client that answers with bytes, before half the code has compared str with bytes."""
    if not redis.get_encoder().decode_responses:
        raise EquipotError("The service's Redis client must be made with decode_responses=True.")
