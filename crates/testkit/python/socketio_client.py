"""A client of Socket.IO that does what it is told: python-socketio, as socketio.js beside it is npm's socket.io-client.

socketio_client.py '{"url":"http://…","transports":["polling","websocket"],"options":{…},"namespaces":["/"]}'
The argument, the orders and what is printed are those of socketio.js, but that it opens no namespace later on.
"""

import base64
import json
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))

# pylint: disable=wrong-import-position
import socketio


def say(**line):
    """Prints a line; threads may do so at the same time."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def meant(value):
    """What an order means by a value."""
    if isinstance(value, list):
        return [meant(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$zeros" in value:
        return bytes(value["$zeros"])
    if "$text" in value:
        return "x" * value["$text"]
    return {name: meant(inner) for name, inner in value.items()}


def shown(value):
    """A value as it is printed."""
    if isinstance(value, (list, tuple)):
        return [shown(inner) for inner in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    return value


def listen(client, namespace):
    """Has everything printed that happens in a namespace."""

    def connected():
        say(**{"is": "open", "transport": client.transport()})
        say(**{"is": "connected", "namespace": namespace, "id": client.get_sid(namespace)})

    def refused(reason=None):
        message = reason.get("message") if isinstance(reason, dict) else str(reason)
        data = reason.get("data") if isinstance(reason, dict) else None
        say(**{"is": "refused", "namespace": namespace, "message": message, "data": data})

    client.on("connect", connected, namespace=namespace)
    client.on("connect_error", refused, namespace=namespace)
    client.on("disconnect", lambda reason: say(**{"is": "disconnected", "namespace": namespace, "reason": reason}),
              namespace=namespace)
    client.on("*", lambda name, *args: say(**{"is": "event", "namespace": namespace, "name": name, "args": shown(args)}),
              namespace=namespace)


def follow(client, order):
    """Does what an order says."""
    if "emit" in order:
        name, *args = meant(order["emit"])
        callback = (lambda *answer: say(**{"is": "ack", "of": order["ack"], "args": shown(answer)})) \
            if "ack" in order else None
        for _ in range(order.get("times", 1)):
            client.emit(name, tuple(args), namespace=order.get("namespace", "/"), callback=callback)
    elif "cut" in order:
        client.eio.ws.sock.shutdown(socket.SHUT_RDWR)
    elif "close" in order or "end" in order:
        client.disconnect()


def main():
    argument = json.loads(sys.argv[1])
    options = argument.get("options") or {}
    client = socketio.Client(reconnection_delay=0.1, reconnection_delay_max=0.5, request_timeout=30)
    for namespace in argument["namespaces"]:
        listen(client, namespace)
    query = "&".join(f"{name}={value}" for name, value in (options.get("query") or {}).items())
    try:
        client.connect(f"{argument['url']}/?{query}", transports=argument["transports"], auth=options.get("auth"),
                       namespaces=argument["namespaces"], headers=options.get("extraHeaders") or {}, wait_timeout=30)
    except socketio.exceptions.ConnectionError:
        # What refused it has been printed.
        pass
    for line in sys.stdin:
        order = json.loads(line)
        follow(client, order)
        if "end" in order:
            break
    # Threads that wait for the next connection keep nobody.
    os._exit(0)


if __name__ == "__main__":
    main()
