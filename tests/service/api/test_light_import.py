"""The API process never loads torch, whatever it is asked; ASE comes only with a download in a format of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, sys
from pathlib import Path
import httpx
from equipot.service.api.app import create_app
from equipot.service.settings import Settings

WATER = {"symbols": ["O", "H", "H"], "positions": [[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]]}
CRYSTAL = {"symbols": ["Si"], "positions": [[0, 0, 0]], "cell": [[3, 0, 0], [0, 3, 0], [0, 0, 3]], "pbc": [True] * 3}
TEXT = {"format": "xyz", "text": "2\\n\\nH 0 0 0\\nH 0 0 0.8\\n"}


async def main(url: str, data_dir: str) -> None:
    app = create_app(Settings(redis_url=url, data_dir=Path(data_dir)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http:
        body = {"kind": "relax", "model": "tiny", "structures": [WATER, CRYSTAL, TEXT]}
        job = (await http.post("/v1/jobs", json=body)).raise_for_status().json()
        await http.post("/v1/jobs?validate_only=true", json=body)
        (await http.post("/v1/structures", files={"file": ("a.xyz", TEXT["text"])})).raise_for_status()
        for path in ("", "/systems", "/trajectory", "/thermo", "/manifest"):
            (await http.get(f"/v1/jobs/{job['id']}{path}")).raise_for_status()
        await http.post(f"/v1/jobs/{job['id']}/cancel")
        (await http.get(f"/v1/jobs/{job['id']}/events")).raise_for_status()
        for path in ("/", "/docs", "/openapi.json", "/v1/jobs", "/v1/models", "/v1/limits", "/metrics", "/nowhere"):
            await http.get(path)
    print(sorted({"torch", "ase"} & set(sys.modules)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
"""


def test_the_api_serves_everything_without_torch_or_ase(redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out = subprocess.run(
        [sys.executable, str(program), redis_url, str(tmp_path / "data")], capture_output=True, text=True, check=False
    )
    assert out.stdout.strip().splitlines()[-1:] == ["[]"], out.stdout[-500:] + out.stderr[-3000:]
