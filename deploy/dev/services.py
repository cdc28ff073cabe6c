"""What `make run` starts of ours, in the order it starts. The one place to add a service."""

from typing import NamedTuple


class Port(NamedTuple):
    """A port that something opens: the setting that moves it, where it is otherwise, and whether 0 closes it."""

    setting: str
    default: int
    optional: bool = False


class Service(NamedTuple):
    """One of our processes: the name of its package and binary, its ports, the port that answers /readyz, and whether
    `parley-up --chaos` starts two of it."""

    name: str
    ports: list[Port]
    admin: Port
    twice: bool = False

    def own_ports(self, values: dict[str, str]) -> dict[str, str]:
        """Its ports by their settings."""
        return {port.setting: values[port.setting] for port in (*self.ports, self.admin)}


SERVICES = [
    Service("notification-hub", ports=[Port("HUB_PORT", 50052)], admin=Port("HUB_METRICS_PORT", 9103)),
    Service("transcription-worker", ports=[Port("WORKER_PORT", 50051)], admin=Port("WORKER_METRICS_PORT", 9102),
            twice=True),
    Service("ws-edge",
            ports=[Port("PORT", 3001), Port("CHAT_PORT", 3002, optional=True), Port("TRANSLATE_PORT", 7860, optional=True),
                   Port("SESSION_PORT", 50053, optional=True)],
            admin=Port("METRICS_PORT", 9101), twice=True),
    Service("rtmp-ingest", ports=[Port("RTMP_PORT", 1936)], admin=Port("RTMP_METRICS_PORT", 9104)),
]

COMMAND_LINE = "parley"

# What is not ours, on ports apart from the usual ones, so that the machine's own Postgres and Redis may go on.
POSTGRES_PORT = Port("POSTGRES_PORT", 25432)
REDIS_PORT = Port("REDIS_PORT", 26379)
HTTP_PORT = Port("HTTP_PORT", 8080)
HTTPS_PORT = Port("HTTPS_PORT", 8443)
RTMP_PORT = Port("RTMP_EXTERNAL_PORT", 1935)
RTMPS_PORT = Port("RTMPS_EXTERNAL_PORT", 2935)
# Those that nginx opens, on the address that faces the world.
FRONT_DOOR = [HTTP_PORT, HTTPS_PORT, RTMP_PORT, RTMPS_PORT]


def ports() -> list[Port]:
    """Every port that `make run` opens."""
    ours = [port for service in SERVICES for port in (*service.ports, service.admin)]
    return [*FRONT_DOOR, *ours, POSTGRES_PORT, REDIS_PORT]


def packages() -> list[str]:
    """Every package that must be built first."""
    return [COMMAND_LINE, *(service.name for service in SERVICES)]
