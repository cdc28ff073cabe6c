"""The values that the services, the stores and the front door of one checkout share.

Ports and secrets come from the environment, else from `.env` beside the Makefile, else from a default or, for secrets,
from `.parley/env`, where the first run put random ones. That file is written again at every start, so whatever reads
it (the `parley` command in another terminal) sees what runs.
"""

import os
import re
import secrets
from pathlib import Path
from typing import Callable, Optional

import services

SECRETS = ["TRANSCRIPTION_JWT_SECRET", "JWT_SECRET", "SERVICE_KEY", "INTERNAL_TOKEN", "VAPID_PRIVATE_KEY",
           "POSTGRES_PASSWORD", "REDIS_PASSWORD"]

DEFAULTS = {
    "HTTP_ADDR": "127.0.0.1",
    "BIND_ADDR": "127.0.0.1",
    "HANDSHAKES_PER_SECOND": "50",
}
# Where nginx is for ws-edge, and a tunnel for nginx.
LOOPBACK = "127.0.0.0/8"

HEADER = """\
# Written by `make run` at every start: what the running services use. Secrets are made once and kept.
# Your own settings belong into .env beside the Makefile. Leave DATABASE_URL and REDIS_URL out of it: `make run`
# always uses the private stores below, and other programs would look elsewhere.
"""


def read(path: Path) -> dict[str, str]:
    """The NAME=value lines of a file, without quotes; empty if there is none."""
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if equals and not name.startswith("#"):
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            found[name.strip()] = value
    return found


def load(root: Path, free_port: Optional[Callable[[], int]] = None) -> dict[str, str]:
    """Every value, with new secrets where there are none yet, and ports from `free_port` if one is given."""
    # An empty value is an unset one, as everywhere in Parley.
    given = {name: value for name, value in {**read(root / ".env"), **os.environ}.items() if value}
    kept = read(root / ".parley" / "env")
    found = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    for port in services.ports():
        found[port.setting] = str(free_port()) if free_port else given.get(port.setting, str(port.default))
    for name in SECRETS:
        found[name] = given.get(name) or kept.get(name) or secrets.token_hex(32)
    found["TRUSTED_PROXIES"] = ",".join(filter(None, [given.get("TRUSTED_PROXIES"), LOOPBACK]))
    # Always the private stores, whatever DATABASE_URL means to this shell: it may be another project's database.
    found["DATABASE_URL"] = (f"postgres://parley:{found['POSTGRES_PASSWORD']}@127.0.0.1:{found['POSTGRES_PORT']}/parley")
    found["REDIS_URL"] = f"redis://:{found['REDIS_PASSWORD']}@127.0.0.1:{found['REDIS_PORT']}/0"
    # Ports of one's own mean services of one's own.
    elsewhere = {} if free_port else given
    found["TRANSCRIPTION_WORKERS"] = elsewhere.get("TRANSCRIPTION_WORKERS", f"http://127.0.0.1:{found['WORKER_PORT']}")
    found["NOTIFICATION_HUB"] = elsewhere.get("NOTIFICATION_HUB", f"http://127.0.0.1:{found['HUB_PORT']}")
    found["PARLEY_MODEL_DIR"] = given.get("PARLEY_MODEL_DIR", str(root / ".parley" / "model"))
    # Where the command line finds the front door.
    found["PARLEY_URL"] = f"http://{reachable(found['HTTP_ADDR'])}:{found['HTTP_PORT']}"
    found["PARLEY_DEV"] = "true"
    return found


def reachable(address: str) -> str:
    """An address to connect to for one to listen on."""
    return "127.0.0.1" if address == "0.0.0.0" else address


def quoted(value: str) -> str:
    """The value as a .env file holds it."""
    if re.fullmatch(r"[A-Za-z0-9_./:@,+=-]*", value):
        return value
    if "'" not in value:
        return f"'{value}'"
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'


def write(root: Path, found: dict[str, str]) -> Path:
    """Writes `.parley/env`, readable by its owner only."""
    path = root / ".parley" / "env"
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(HEADER)
        file.writelines(f"{name}={quoted(value)}\n" for name, value in found.items())
    unfinished.replace(path)
    return path
