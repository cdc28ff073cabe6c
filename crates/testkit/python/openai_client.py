"""OpenAI's own client at work on a server that speaks its protocol.

openai_client.py '{"base_url":"http://…/v1","key":"…","file":"speech.wav"}'
Prints a JSON line for each thing that it has done: {"did": what, …} with what came of it, or what was raised.
"""

import io
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("packages")))

# pylint: disable=wrong-import-position
import openai


def say(did, **line):
    """Prints a line."""
    print(json.dumps({"did": did, **line}), flush=True)


def attempt(did, call):
    """Does something; what came of it, or what was raised."""
    try:
        result = call()
        say(did, result=result if isinstance(result, str) else result.to_dict())
    except openai.APIStatusError as error:
        say(did, raised=type(error).__name__, status=error.status_code, body=error.body, code=error.code, param=error.param)


def main():
    """Every format, streaming, and what is wrong."""
    asked = json.loads(sys.argv[1])
    client = openai.OpenAI(base_url=asked["base_url"], api_key=asked["key"], max_retries=0)
    speech = Path(asked["file"])
    transcribe = client.audio.transcriptions.create
    for response_format in ("json", "text", "srt", "vtt", "verbose_json"):
        attempt(response_format, lambda chosen=response_format: transcribe(
            model="whisper-1", file=speech, language="en", response_format=chosen, prompt="names", temperature=0))
    attempt("words", lambda: transcribe(model="gpt-4o-transcribe", file=speech, response_format="verbose_json",
                                        timestamp_granularities=["word", "segment"]))
    for event in transcribe(model="gpt-4o-mini-transcribe", file=speech, stream=True):
        say("stream", event=event.to_dict())
    attempt("models", client.models.list)
    attempt("model", lambda: client.models.retrieve("whisper-1"))
    attempt("translation", lambda: client.audio.translations.create(model="whisper-1", file=speech))
    attempt("text as sound", lambda: transcribe(model="whisper-1", file=("notes.wav", io.BytesIO(b"no sound " * 1000))))
    attempt("format", lambda: transcribe(model="whisper-1", file=speech, response_format="diarized_json"))
    attempt("language", lambda: transcribe(model="whisper-1", file=speech, language="klingon"))
    attempt("unserved", lambda: transcribe(model="whisper-1", file=speech, language="xx"))
    stranger = openai.OpenAI(base_url=asked["base_url"], api_key="nobody's", max_retries=0)
    attempt("stranger", lambda: stranger.audio.transcriptions.create(model="whisper-1", file=speech))


main()
