// What parley.js does by itself, without a browser: addresses, waits, and how it answers each close code of a server that
// follows a script. node client.js '{}'. Prints what was checked as {"checks":N}; exit code 0 if all is well.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const zlib = require("node:zlib");
const { WebSocket, WebSocketServer } = require("ws");
const { print, token } = require("./peer.js");

const FILE = path.join(__dirname, "../../ws-edge/web/parley.js");
const PATIENCE_MS = 30_000;
let checks = 0;
const check = (...what) => {
  checks += 1;
  assert.deepEqual(...what);
};
setInterval(() => print({ alive: true }), 5_000).unref();
globalThis.WebSocket = WebSocket;

/// The next event of this name.
const next = (line, name) => new Promise((resolve, reject) => {
  const late = setTimeout(() => reject(new Error(`waited in vain for ${name}`)), PATIENCE_MS);
  const off = line.on(name, (detail) => {
    clearTimeout(late);
    off();
    resolve(detail);
  });
});

(async () => {
  check(zlib.gzipSync(fs.readFileSync(FILE), { level: 6 }).length <= 12 * 1024, true, "12 KB, compressed as nginx does");
  const { Backoff, Notifications, PolicyError, Session, TokenError, VERSION, address, claims, closeReason } = await import(FILE);
  check(VERSION, JSON.parse(fs.readFileSync(path.join(FILE, "../package.json"))).version);
  check(VERSION, /^version = "(.*)"$/m.exec(fs.readFileSync(path.join(FILE, "../../../../Cargo.toml"), "utf8"))[1], "one version");

  // Where the server is.
  const at = (protocol, host, port = "") => ({ protocol, host: port ? `${host}:${port}` : host, port });
  for (const [options, expected] of [
    [{ page: at("http:", "127.0.0.1", "8080") }, "ws://127.0.0.1:8080/ws"],
    [{ page: at("https:", "app.example") }, "wss://app.example/ws"],
    [{ host: "captions.example", page: at("http:", "localhost", "3000") }, "wss://captions.example/ws"],
    [{ host: "https://captions.example/", page: at("https:", "app.example") }, "wss://captions.example/ws"],
    [{ host: "wss://captions.example:7860", page: at("https:", "app.example") }, "wss://captions.example/ws"],
    [{ host: "localhost", page: at("http:", "localhost", "3000") }, "ws://localhost:3000/ws"],
    [{ host: "localhost", page: at("http:", "localhost") }, "ws://localhost:3001/ws"],
    [{ host: "http://127.0.0.1:9/", page: at("http:", "localhost", "3000") }, "ws://127.0.0.1:9/ws"],
    [{ host: "192.168.1.7", page: at("https:", "192.168.1.7", "8443") }, "wss://192.168.1.7:8443/ws"],
    [{ host: "localhost.example", page: at("http:", "localhost") }, "wss://localhost.example/ws"],
    [{ origin: "http://10.0.0.5:8080", page: at("https:", "app.example") }, "ws://10.0.0.5:8080/ws"],
  ]) check(address(options, "/ws"), expected);
  check(address({ origin: "https://a.example" }, "/x", { token: "a b+&/=", since: 0, none: undefined }, "http"), "https://a.example/x?token=a%20b%2B%26%2F%3D&since=0");
  assert.throws(() => address({ host: "https://" }), TypeError);
  assert.throws(() => address({ origin: "captions.example" }), TypeError);

  check(claims(token("secret", "demo", "Ада")).identity, "Ада");
  for (const bad of ["", "x", "a.b.c", "a.bnVsbA.c"]) check(claims(bad), {});
  const backoff = new Backoff();
  check(Array.from({ length: 7 }, () => backoff.next(0, 1)), [500, 1000, 2000, 4000, 8000, 15000, 15000]);
  check([backoff.next(20_000, 1), backoff.next(1e12, 1)], [20_000, 300_000]);
  backoff.reset();
  check(backoff.next(undefined, 0), 250);
  check([1006, 1008, 4003, 4008, 4999].map(closeReason), ["lost", "refused", "expired", "silent", "unknown"]);

  // What it does when a socket ends.
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await new Promise((resolve) => server.once("listening", resolve));
  const origin = `http://127.0.0.1:${server.address().port}`;
  const asked = [];
  let act = () => {};
  server.on("connection", (socket, request) => {
    asked.push(Object.fromEntries(new URL(request.url, origin).searchParams));
    socket.say = (message) => socket.send(JSON.stringify(message));
    socket.say({ type: "connected", sessionSlug: "demo", userId: "u", ts: Date.now() });
    act(socket, asked.length);
  });
  const final = (sequence) => ({ type: "transcript_final", utteranceId: `u-${sequence}`, text: `number ${sequence}`, isFinal: true, sequence, ts: Date.now() });

  // It comes back after what it has, tells nothing twice, and waits as long as it was asked to.
  act = (socket, time) => {
    socket.say(final(1));
    if (time > 1) return socket.say(final(2));
    socket.say({ type: "reconnect", retryAfterMs: 700 });
    socket.close(1001);
  };
  let session = new Session({ origin, token: "t", since: 0 });
  const told = [];
  session.on("final", ({ sequence }) => told.push(sequence));
  const wait = next(session, "retry");
  await session.open();
  check((await wait).waitMs >= 700, true);
  while (told.length < 2) await next(session, "final");
  check(told, [1, 2]);
  check(asked.map(({ since }) => since), ["0", "1"]);
  session.close();

  // Without a socket that answers it is as with none: 4008, 4013, 1011 and 1013 are tried again.
  for (const code of [4008, 4013, 1011, 1013]) {
    asked.length = 0;
    act = (socket, time) => time === 1 && socket.close(code);
    session = new Session({ origin, token: "t" });
    const lost = next(session, "disconnected");
    await session.open();
    check((await lost).code, code);
    while (asked.length < 2) await next(session, "connected");
    session.close();
  }

  // Who greets and then closes, again and again, is not stormed.
  act = (socket) => socket.close(1011);
  session = new Session({ origin, token: "t" });
  const failures = [];
  session.on("retry", (retry) => failures.push(retry.failures));
  session.open().catch(() => {});
  while (failures.length < 3) await next(session, "retry");
  check(failures, [1, 2, 3]);
  session.close();

  // A token that has ended is asked for anew; a constant one is the end.
  asked.length = 0;
  const reasons = [];
  act = (socket, time) => time === 1 && socket.close(4003);
  session = new Session({ origin, token: (reason) => { reasons.push(reason); return `token ${reasons.length}`; } });
  await session.open();
  while (asked.length < 2) await next(session, "connected");
  check(reasons, ["connect", "expired"]);
  check(asked.map((query) => query.token), ["token 1", "token 2"]);
  session.close();
  asked.length = 0;
  session = new Session({ origin, token: "t" });
  const ended = next(session, "error");
  await session.open();
  check((await ended) instanceof TokenError, true);
  check([session.state, asked.length], ["closed", 1]);

  // 1008 is a stop, whoever could give another token.
  for (const [code, Kind] of [["unauthenticated", TokenError], ["limit_reached", PolicyError]]) {
    asked.length = 0;
    act = (socket) => {
      socket.say({ type: "error", message: "no", code });
      socket.close(1008);
    };
    session = new Session({ origin, token: () => "t" });
    const failed = next(session, "error");
    session.open().catch(() => {});
    const error = await failed;
    check([error instanceof Kind, error.code, error.closeCode, session.state], [true, code, 1008, "closed"]);
    check(asked.length, 1);
  }

  // Before a token ends a new one is shown to the open socket.
  act = () => {};
  const shown = new Promise((resolve) => {
    act = (socket) => socket.on("message", (data) => JSON.parse(data).type === "refresh" && resolve(JSON.parse(data).token));
  });
  const seconds = Math.floor(Date.now() / 1000);
  session = new Session({ origin, token: (reason) => (reason === "refresh" ? "fresh" : token("secret", "demo", "a", { iat: seconds, exp: seconds + 4 })) });
  await session.open();
  check(await shown, "fresh");
  session.close();

  // One that is no newer is not shown, and not asked for again and again.
  const same = token("secret", "demo", "a", { iat: seconds, exp: Math.floor(Date.now() / 1000) + 4 });
  let renewals = 0;
  const said = [];
  act = (socket) => socket.on("message", (data) => said.push(JSON.parse(data).type));
  session = new Session({ origin, token: (reason) => { renewals += reason === "refresh"; return same; } });
  await session.open();
  while (!renewals) await new Promise((resolve) => { setTimeout(resolve, 50); });
  await new Promise((resolve) => { setTimeout(resolve, 1_500); });
  check([renewals, said], [1, []]);
  session.close();

  // Whoever had nothing unread goes on from there; when more was missed than is kept, the list is read anew.
  const since = [];
  act = (socket) => socket.on("message", (data) => {
    const said = JSON.parse(data);
    if (said.type !== "subscribe") return;
    since.push(said.since);
    socket.say({ type: "subscribed", data: { channelKey: "notifications:u" } });
    if (said.since !== undefined) return socket.say({ type: "resync", data: { channelKey: "notifications:u" } });
    if (since.length > 1) return socket.say({ type: "unread_notifications", data: { notifications: [{ id: "n" }], count: 1, version: 9 } });
    socket.say({ type: "unread_count", userId: "u", count: 0, version: 7 });
    socket.close(1011);
  });
  const notifications = new Notifications({ origin, token: "t", user: "u", share: false });
  const counted = new Promise((resolve) => { notifications.on("count", (count) => count === 1 && resolve()); });
  await notifications.start();
  await counted;
  check([since, notifications.items, notifications.sequence], [[undefined, 7, undefined], [{ id: "n" }], 9]);
  notifications.close();

  server.close();
  for (const socket of server.clients) socket.terminate();
  print({ checks });
})().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
