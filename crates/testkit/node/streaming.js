// The streaming client of system D. node streaming.js '{"socket":"ws://…/ws","http":"http://…","files":["a.wav"],"language":"en"}'
// Each file is one piece of what somebody says. It is sent over the WebSocket and kept until its text has come; what is kept is sent
// again after a reconnect, and over HTTP once the WebSocket was given up. One JSON line for everything that it does; it is
// told on standard input to go on with the next piece ({"next":true}).
const { readFileSync } = require("node:fs");
const readline = require("node:readline");
const WebSocket = require("ws");
const { print } = require("./peer.js");

const asked = JSON.parse(process.argv[2]);
const CONNECT_LIMITS_MS = [3_000, 5_000, 10_000];
const INIT_AFTER_MS = [100, 500];
const RECONNECTS_MAX = 3;
const RECONNECT_MS = 1_000;

const waiting = [...asked.files];
let reconnects = 0;
let socket = null;
let isReady = false;
let isGivenUp = false;
let piece = null;

const connect = () => {
  const own = new WebSocket(asked.socket);
  socket = own;
  isReady = false;
  const limit = setTimeout(() => own.terminate(), CONNECT_LIMITS_MS[Math.min(reconnects, 2)]);
  own.on("open", () => {
    clearTimeout(limit);
    for (const after of INIT_AFTER_MS) {
      setTimeout(() => {
        if (own.readyState !== WebSocket.OPEN || isReady) return;
        own.send(JSON.stringify({ type: "init", sourceLanguage: asked.language, targetLanguage: asked.language, engine: "faster-whisper" }));
      }, after);
    }
  });
  own.on("message", (data) => {
    const said = JSON.parse(data.toString());
    if (said.type === "connection" && said.status === "initialized" && !isReady) {
      isReady = true;
      print({ does: "ready", reconnects });
      send();
    } else if (said.type === "transcription" && piece) {
      heard("websocket", said.text);
    } else if (said.type === "error") {
      print({ does: "fail", message: said.message });
    }
  });
  own.on("error", () => {});
  own.on("close", (code) => {
    clearTimeout(limit);
    if (own !== socket || isGivenUp || (!piece && !waiting.length)) return;
    print({ does: "close", code });
    if (reconnects === RECONNECTS_MAX) return giveUp();
    reconnects += 1;
    setTimeout(connect, RECONNECT_MS * reconnects);
  });
};

const send = () => {
  if (piece && isReady && socket.readyState === WebSocket.OPEN) socket.send(readFileSync(piece));
};

const heard = (road, text) => {
  print({ heard: piece, road, text });
  piece = null;
  if (waiting.length === 0) {
    if (socket) socket.close(1000);
    process.stdin.destroy();
  }
};

const giveUp = () => {
  isGivenUp = true;
  print({ does: "fall back" });
  if (piece) post();
};

const post = async () => {
  const form = new FormData();
  form.append("file", new Blob([readFileSync(piece)], { type: "audio/wav" }), "audio.wav");
  form.append("language", asked.language);
  form.append("vad_filter", "true");
  const answer = await fetch(`${asked.http}/transcribe`, { method: "POST", body: form, signal: AbortSignal.timeout(30_000) });
  const said = await answer.json();
  if (!said.success) return print({ does: "fail", message: said.error });
  heard("http", said.transcription || said.text);
};

readline.createInterface({ input: process.stdin }).on("line", () => {
  if (piece) throw new Error("the piece before is not heard yet");
  piece = waiting.shift();
  if (isGivenUp) post();
  else send();
});

connect();
