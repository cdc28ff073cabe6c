"""nginx in front of the services: its file, its certificate, its process."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

from processes import Child, Failure, Processes

CERTIFICATE_DAYS = 825
# As in ws-edge, which has the same limit.
HANDSHAKE_BURST_SECONDS = 4
# Renewed when it would expire within this time.
CERTIFICATE_SPARE_SECONDS = 7 * 24 * 3600


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for this machine's own names and its key; made when missing or nearly expired."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    chain, key = folder / "cert.pem", folder / "key.pem"
    valid = chain.exists() and key.exists() and subprocess.run(
        ["openssl", "x509", "-in", chain, "-noout", "-checkend", str(CERTIFICATE_SPARE_SECONDS)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0
    if not valid:
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", str(CERTIFICATE_DAYS), "-subj", "/CN=localhost/O=Parley dev",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1", "-keyout", key, "-out", chain],
            capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise Failure(f"openssl could not make a certificate:\n{made.stderr.strip()}")
        key.chmod(0o600)
    return chain, key


def render(template: Path, replacements: dict[str, str]) -> str:
    """The template with every placeholder replaced."""
    text = template.read_text()
    for name, value in replacements.items():
        text = text.replace(f"@{name}@", value)
    if left := sorted(set(re.findall(r"@[A-Z_]+@", text))):
        raise Failure(f"{template} holds placeholders that nothing replaces: {', '.join(left)}")
    return text


def stream_module() -> str:
    """The line that loads nginx's stream module, or nothing where it is built in."""
    found = [path for folder in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")
             for path in Path(folder).glob("ngx_stream_module.so")]
    return f"load_module {found[0]};" if found else ""


def configure(root: Path, run_folder: Path, logs: Path, values: dict[str, str], edges: list[str]) -> Path:
    """Writes nginx's file for these values and the main ports of the edges, and has nginx check it."""
    chain, key = certificate(root / ".parley" / "tls")
    run_folder.mkdir(parents=True, exist_ok=True)
    trusted = [address.strip() for address in values["TRUSTED_PROXIES"].split(",") if address.strip()]
    if not values["HANDSHAKES_PER_SECOND"].isdecimal() or (rate := int(values["HANDSHAKES_PER_SECOND"])) == 0:
        raise Failure(f"HANDSHAKES_PER_SECOND={values['HANDSHAKES_PER_SECOND']} is not a number above 0.")
    text = render(root / "nginx" / "parley.conf.template", {
        "WORKERS": "2",
        "RUN_DIR": str(run_folder),
        "ERROR_LOG": str(logs / "nginx-error.log"),
        "ACCESS_LOG": str(logs / "nginx-access.log"),
        "LISTEN_ADDR": values["HTTP_ADDR"],
        "HTTP_PORT": values["HTTP_PORT"],
        "HTTPS_PORT": values["HTTPS_PORT"],
        "RTMP_PORT": values["RTMP_EXTERNAL_PORT"],
        "RTMPS_PORT": values["RTMPS_EXTERNAL_PORT"],
        "STREAM_MODULE": stream_module(),
        "RTMP_SERVERS": f"server 127.0.0.1:{values['RTMP_PORT']};",
        "TLS_CERT": str(chain),
        "TLS_KEY": str(key),
        # ws-edge opens the doors of older clients itself, on loopback.
        "DOORS": "map $server_port $door { default edge; }",
        "MORE_LISTENS": "",
        "RESOLVER": "",
        "SHUTDOWN_TIMEOUT": "5s",
        "EDGE_SERVERS": " ".join(f"server 127.0.0.1:{port} max_fails=0;" for port in edges),
        "TRUSTED_PROXIES": " ".join(f"set_real_ip_from {address};" for address in trusted),
        "HANDSHAKE_RATE": str(rate),
        "HANDSHAKE_BURST": str(rate * HANDSHAKE_BURST_SECONDS),
    })
    configuration = run_folder / "nginx.conf"
    configuration.write_text(text)
    checked = subprocess.run([*command(configuration), "-t", "-q"], capture_output=True, text=True, check=False)
    if checked.returncode != 0:
        raise Failure(f"nginx refuses {configuration}:\n{checked.stderr.strip()}")
    return configuration


def command(configuration: Path) -> list[str]:
    # -e, because until nginx has read its file it would log to a place only root may write.
    return [shutil.which("nginx") or "nginx", "-e", str(configuration.with_name("start.log")),
            "-c", str(configuration), "-g", "daemon off;"]


def start(processes: Processes, configuration: Path, answers) -> Child:
    """Starts nginx and waits until it answers. QUIT lets requests in flight end."""
    child = processes.start("nginx", command(configuration), environment=None, stop_signal=signal.SIGQUIT)
    processes.wait_until(child, "does not answer", answers, 20.0)
    return child
