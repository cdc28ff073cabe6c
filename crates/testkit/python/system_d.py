"""What system D's own test of its service does: is it there, does it hear, does it know the language.

system_d.py '{"url":"http://…","file":"speech.wav","token":null}'
Prints a JSON line for each request: {"did": path, "status": …, "body": …}; the body of a page is its media type.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))

# pylint: disable=wrong-import-position
import requests


def main():
    """The requests, in the order of its test."""
    asked = json.loads(sys.argv[1])
    headers = {"Authorization": f"Bearer {asked['token']}"} if asked.get("token") else {}

    def request(method, path, **options):
        answer = requests.request(method, asked["url"] + path, headers=headers, timeout=120, **options)
        media_type = answer.headers["content-type"]
        body = answer.json() if media_type == "application/json" else media_type
        print(json.dumps({"did": path, "status": answer.status_code, "body": body}), flush=True)

    sound = Path(asked["file"]).read_bytes()
    for path in ("/", "/health", "/docs"):
        request("GET", path)
    request("POST", "/transcribe", files={"file": ("speech.wav", sound, "audio/wav")},
            data={"language": "en", "task": "transcribe", "vad_filter": "true", "vad_parameters": "threshold=0.5"})
    request("POST", "/detect-language", files={"file": ("speech.wav", sound, "audio/wav")})
    request("POST", "/transcribe", files={"audio": ("speech.wav", sound, "audio/wav")})


main()
