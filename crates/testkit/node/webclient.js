// The web client of system A. node webclient.js '{"base":"http://…","slug":"…","token":"…"}'
// One JSON line for everything that it shows or does. It is told on standard input, a JSON line each, who speaks loudest now
// ({"speaks":{"identity":"…","name":"…"}}, or null), what it says on its socket ({"says":{…}}), and that the page is closed
// ({"leave":true}).
const WebSocket = require("ws");
const { ask, print, websocket } = require("./peer.js");

const { base, slug, token } = JSON.parse(process.argv[2]);
const ADDRESS = websocket(base, `/api/realtime/transcribe?token=${encodeURIComponent(token)}&sessionSlug=${slug}`);

// connectTranscriptionWebSocket
const CONNECT_LIMIT_MS = 10_000;
const BACK_OFF_MS = [1_000, 2_000, 4_000, 8_000, 16_000];

let page = null;
let isLeaving = false;

const connect = (attempt) => {
  const socket = new WebSocket(ADDRESS);
  page = socket;
  const limit = setTimeout(() => socket.terminate(), CONNECT_LIMIT_MS);
  socket.on("open", () => {
    clearTimeout(limit);
    attempt = 0;
  });
  // Listening from the first moment on: the greeting comes with the answer to the upgrade.
  socket.on("message", (data) => hear(JSON.parse(data.toString())));
  socket.on("error", (error) => print({ does: "fail", message: error.message }));
  socket.on("close", (code, reason) => {
    clearTimeout(limit);
    print({ does: "close", code, reason: reason.toString() });
    if (code === 1000 || isLeaving) return end();
    // It has a token that is no good.
    if (code === 1008 || attempt >= BACK_OFF_MS.length) {
      print({ does: "give up", code });
      return end();
    }
    print({ does: "reconnect", attempt: attempt + 1 });
    setTimeout(() => connect(attempt + 1), BACK_OFF_MS[attempt]);
  });
};

const end = () => {
  clearInterval(polling);
  for (const partial of panel.values()) clearTimeout(partial.idle);
  process.stdin.destroy();
};

// Message handling of the session page
const bubbles = new Map();

const hear = (said) => {
  const isFinal = said.isFinal ?? said.is_final ?? false;
  const utterance = said.utteranceId ?? said.utterance_id;
  const speaker = said.speakerId ?? said.speaker_id ?? said.speaker ?? "unknown";
  switch (said.type) {
    case "connected":
      return print({ shows: "connected", said });
    case "stt_status":
      return print({ shows: "status", status: said.status, said });
    case "transcript_partial":
    case "transcript_final":
    case "transcription": {
      const key = `${speaker}|${utterance}`;
      const isNew = !bubbles.has(key);
      bubbles.set(key, said.text);
      return print({ shows: "bubble", key, utterance, isNew, text: said.text, isFinal: said.type === "transcript_final" || isFinal, said });
    }
    case "transcript":
      return panelHears(said);
    case "transcription_error":
    case "ai_insights":
      return print({ shows: said.type, said });
    case "error":
      return print({ shows: "error", message: said.message ?? said.error, code: said.code });
    case "warning":
      return print({ shows: "warning", message: said.message });
    default:
      // What it does not know it passes over.
      return print({ does: "ignore", type: said.type });
  }
};

// useRealtimeTranscript
const IDLE_MS = 3_000;
const LATE_MS = 2_000;
const panel = new Map();

const panelHears = (said) => {
  if (said.sessionSlug !== slug) return print({ does: "ignore", type: said.type });
  const { utteranceId, text, isFinal, ts } = said;
  if (Date.now() - ts > LATE_MS) print({ does: "warn", late: utteranceId });
  clearTimeout(panel.get(utteranceId)?.idle);
  panel.delete(utteranceId);
  if (!isFinal) {
    const idle = setTimeout(() => {
      panel.delete(utteranceId);
      print({ shows: "panel", utterance: utteranceId, text, isFinal: true, auto: true });
    }, IDLE_MS);
    panel.set(utteranceId, { idle });
  }
  print({ shows: "panel", utterance: utteranceId, text, isFinal, auto: false, said });
};

// useActiveSpeakerTracker
const POLL_MS = 200;
const APART_MS = 500;
let loudest = null;
let told = null;
let toldAt = 0;

const track = async () => {
  const now = Date.now();
  // Nothing is told of silence.
  if (loudest === null || loudest.identity === told || now - toldAt < APART_MS) return;
  [told, toldAt] = [loudest.identity, now];
  const body = { sessionSlug: slug, ...loudest, timestamp: now, token };
  const { status, text } = await ask(`${base}/api/active-speaker`, { method: "POST", body });
  print({ does: "track", identity: body.identity, status, answer: JSON.parse(text) });
};
const polling = setInterval(() => track().catch((error) => print({ does: "fail", message: error.message })), POLL_MS);

require("node:readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const order = JSON.parse(line);
    if ("speaks" in order) loudest = order.speaks;
    if ("says" in order) page.send(JSON.stringify(order.says));
    if ("leave" in order) {
      isLeaving = true;
      page.close(1000, "Page closed");
    }
  });

connect(0);
