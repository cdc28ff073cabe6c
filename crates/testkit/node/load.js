// The load test of system A. node load.js '{"base":"http://…","secret":"…","sockets":30,"seconds":5,"streams"?:6}'
// Each socket sends 3200 bytes, a tenth of a second, every 100 ms; one more is the old browser worklet, which sends each
// render quantum by itself: 256 bytes, 125 times a second. With `streams` there is one user instead, who opens so many, each
// in a session of its own. Prints one JSON line.
const WebSocket = require("ws");
const { ask, print, token, websocket } = require("./peer.js");

const { base, secret, sockets, seconds, streams } = JSON.parse(process.argv[2]);

/// A session has places for ten streams of users.
const SOCKETS_OF_SESSION = 8;
const run = `load-${process.pid}-${Date.now()}`;

const open = (session, user) => {
  const jwt = token(secret, `${run}-${session}`, user);
  const socket = new WebSocket(websocket(base, `/api/realtime/transcribe?token=${jwt}`), { perMessageDeflate: false });
  const seen = { types: {}, problems: [], pings: 0, sent: 0, close: null };
  socket.on("message", (data) => {
    const said = JSON.parse(data.toString());
    seen.types[said.type] = (seen.types[said.type] ?? 0) + 1;
    if (said.type === "error" || said.type === "warning") {
      seen.problems.push({ code: said.code, message: said.message });
      seen.isRefused?.();
    }
    if (said.type === "connected") seen.isGreeted();
    if (said.type === "stt_status" && said.status === "ready") seen.isReady?.();
  });
  // `ws` answers by itself.
  socket.on("ping", () => {
    seen.pings += 1;
    seen.isAsked?.();
  });
  socket.on("error", (error) => seen.problems.push({ message: error.message }));
  const closed = new Promise((resolve) =>
    socket.on("close", (code, reason) => {
      seen.close = { code, reason: reason.toString() };
      resolve();
    }),
  );
  const opened = new Promise((resolve) => {
    // Then the server counts it.
    seen.isGreeted = resolve;
    socket.on("close", resolve);
  });
  return { socket, seen, opened, closed };
};

/// Sends so many bytes so often by the clock, whatever timers do.
const speak = ({ socket, seen }, bytes, everyMs, forMs) =>
  new Promise((resolve) => {
    const began = Date.now();
    const [frame, frames] = [Buffer.alloc(bytes), Math.round(forMs / everyMs)];
    const timer = setInterval(() => {
      const due = Math.min(frames, Math.floor((Date.now() - began) / everyMs));
      for (; seen.sent < due && socket.readyState === WebSocket.OPEN; seen.sent += 1) socket.send(frame);
      if (seen.sent >= frames || socket.readyState !== WebSocket.OPEN) {
        clearInterval(timer);
        resolve();
      }
    }, Math.min(everyMs, 8));
  });

const metrics = async () => JSON.parse((await ask(`${base}/metrics`)).text);

const load = async () => {
  const before = await metrics();
  const all = Array.from({ length: sockets + 1 }, (_, at) => open(Math.floor(at / SOCKETS_OF_SESSION), `user-${at}`));
  await Promise.all(all.map(({ opened }) => opened));
  const connections = (await metrics()).activeConnections;
  const worklet = all.at(-1);
  const speaking = all.slice(0, -1).map((socket) => speak(socket, 3_200, 100, seconds * 1_000));
  await Promise.all([...speaking, speak(worklet, 256, 8, seconds * 1_000)]);
  // Whoever speaks is not asked whether it is there. Now nobody does, so everybody is asked, and answers.
  const asked = ({ seen, closed }) => Promise.race([closed, new Promise((resolve) => (seen.isAsked = resolve))]);
  await Promise.all(all.map(asked));
  await Promise.all(all.map(asked));
  // Those that were closed until here were not closed by us.
  const lost = all.filter(({ seen }) => seen.close !== null).map(({ seen }) => seen.close);
  const during = await metrics();
  for (const { socket } of all) socket.close(1000);
  await Promise.all(all.map(({ closed }) => closed));
  let after = await metrics();
  while (after.queue.queueLength > 0) after = await metrics();
  const seen = all.map((one) => one.seen);
  print({
    connections,
    sent: seen.reduce((sum, one) => sum + one.sent, 0),
    worklet: worklet.seen.sent,
    greeted: seen.filter((one) => one.types.connected === 1).length,
    pinged: seen.filter((one) => one.pings > 0).length,
    lost,
    problems: seen.flatMap((one) => one.problems),
    codes: [...new Set(seen.map((one) => one.close.code))],
    before: { ...before.queue, counters: before.counters },
    during: { ...during.queue, counters: during.counters, latency: during.latency },
    after: { ...after.queue, counters: after.counters },
  });
};

const greed = async () => {
  const all = [];
  for (let at = 0; at < streams; at += 1) {
    const one = open(at, `greedy-${run}`);
    all.push(one);
    await one.opened;
    const answered = new Promise((resolve) => {
      one.seen.isReady = resolve;
      one.seen.isRefused = resolve;
    });
    one.socket.send(Buffer.alloc(3_200));
    await Promise.race([answered, one.closed]);
  }
  const refused = all.filter(({ seen }) => seen.problems.length > 0);
  for (const { socket } of all) socket.close(1000);
  await Promise.all(all.map(({ closed }) => closed));
  const told = ({ seen }) => ({ number: all.findIndex((one) => one.seen === seen) + 1, close: seen.close, problems: seen.problems });
  print({ codes: all.map(({ seen }) => seen.close.code), refused: refused.map(told) });
};

(streams === undefined ? load() : greed())
  .then(() => process.exit(0))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
