"""Deepgram's own SDK, told another base URL: sends a file at twice the pace of speech and prints what it is told.

deepgram_client.py '{"url":"ws://…","key":…,"file":PATH,"options":{…},"finalizeAfter"?:BYTES}'
Prints JSON lines: every message as the SDK has read it, then {"is":"closed"}.
"""

import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))

# pylint: disable=wrong-import-position
from deepgram import DeepgramClient
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment


def say(line):
    """Prints a line; threads may do so at the same time."""
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def main(plan):
    """Sends the file and waits for the end."""
    http = plan["url"].replace("ws", "http", 1)
    environment = DeepgramClientEnvironment(
        base=http, production=plan["url"], agent=plan["url"], agent_rest=http
    )
    client = DeepgramClient(api_key=plan["key"], environment=environment)
    with client.listen.v1.connect(**plan["options"]) as connection:
        connection.on(EventType.MESSAGE, lambda message: say(message.dict()))
        connection.on(EventType.ERROR, lambda error: say({"is": "error", "error": repr(error)}))
        listening = threading.Thread(target=connection.start_listening)
        listening.start()
        connection.send_keep_alive()
        sound = Path(plan["file"]).read_bytes()
        finalized = plan.get("finalizeAfter")
        for begin in range(0, len(sound), 3_200):
            connection.send_media(sound[begin : begin + 3_200])
            if finalized is not None and begin >= finalized:
                finalized = None
                connection.send_finalize()
            time.sleep(0.05)
        connection.send_close_stream()
        listening.join()
    say({"is": "closed"})


main(json.loads(sys.argv[1]))
