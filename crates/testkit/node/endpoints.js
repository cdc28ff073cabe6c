// The endpoint test of a client of system A: every route, every documented answer, to the letter.
// node endpoints.js '{"base":"http://…","secret":"…","key"?:"…","rtmpSecret"?:"…","reject"?:true}'
// Without `key` every route is open to whoever asks; with it they want a proof. `rtmpSecret` is what RTMP servers show,
// `reject` says that a bad token is answered with 401 before the upgrade. Prints what was checked; exit code 0 if all is.
const assert = require("node:assert/strict");
const WebSocket = require("ws");
const { ask, print, token, websocket } = require("./peer.js");

const { base, secret, key, rtmpSecret, reject } = JSON.parse(process.argv[2]);
const slug = `endpoints-${process.pid}-${Date.now()}`;
const sessionId = `cuid-${slug}`;
const jwt = token(secret, slug, "alice", { sessionId });
const proof = key === undefined ? {} : { Authorization: `Bearer ${key}` };
const NO_PROOF = "A token of this session or a service key is required";
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
let checks = 0;

/// Asks, looks at what every answer has, and gives its status and JSON.
const json = async (method, path, body, headers = {}) => {
  const answer = await ask(base + path, { method, body, headers });
  checks += 1;
  assert.equal(answer.headers["access-control-allow-origin"], "*", path);
  assert.equal(answer.headers["access-control-allow-methods"], "GET, POST, OPTIONS", path);
  assert.equal(answer.headers["access-control-allow-headers"], "Content-Type, Authorization", path);
  assert.equal(answer.headers["content-type"], "application/json", path);
  return [answer.status, JSON.parse(answer.text), answer.text];
};

/// The same, whose JSON is exactly this.
const expect = async (method, path, body, headers, status, value) =>
  assert.deepEqual((await json(method, path, body, headers)).slice(0, 2), [status, value], `${method} ${path}`);

/// The same for JSON that is none: `field` says what is wrong with it.
const malformed = async (path, headers, status, field, value) => {
  for (const body of ["{", "", "not JSON"]) {
    const [got, said] = await json("POST", path, body, headers);
    assert.equal(got, status, path);
    assert.equal(typeof said[field], "string", path);
    assert.notEqual(said[field], "", path);
    assert.deepEqual({ ...said, [field]: 0 }, { ...value, [field]: 0 }, path);
  }
};

/// A socket that keeps what it is told.
const open = (url) => {
  const socket = new WebSocket(url, { perMessageDeflate: true });
  const told = [];
  let wake = () => {};
  socket.on("message", (data, isBinary) => {
    assert.equal(isBinary, false);
    told.push(JSON.parse(data.toString()));
    wake();
  });
  const closed = new Promise((resolve) => socket.on("close", (code, reason) => resolve([code, reason.toString()])));
  socket.on("error", () => {});
  const next = async (wanted) => {
    for (;;) {
      const at = told.findIndex(wanted);
      if (at >= 0) return told.splice(0, at + 1).at(-1);
      await new Promise((resolve) => (wake = resolve));
    }
  };
  return { socket, next, closed };
};

const UPGRADE = {
  Connection: "Upgrade",
  Upgrade: "websocket",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
};

const aboutIt = async () => {
  const [code, index] = await json("GET", "/");
  assert.match(index.timestamp, ISO);
  assert.deepEqual([code, { ...index, timestamp: 0 }], [
    200,
    {
      service: "Sessions WebSocket Transcription Server",
      status: "running",
      version: "1.0.0",
      mode: "both",
      endpoints: {
        health: "/health",
        metrics: "/metrics",
        websocket: "/api/realtime/transcribe",
        startTranscription: "/api/transcription/start",
        stopTranscription: "/api/transcription/stop",
      },
      timestamp: 0,
    },
  ]);
  const [, test] = await json("GET", "/test");
  assert.match(test.timestamp, ISO);
  assert.equal(typeof test.port, "number");
  assert.deepEqual(Object.keys(test), ["status", "message", "timestamp", "port", "env"]);
  assert.deepEqual([test.status, test.message], ["ok", "Server is running"]);
  assert.deepEqual(test.env, { PORT: String(test.port), SERVER_MODE: "both" });
  const [healthy, health] = await json("GET", "/health");
  assert.match(health.timestamp, ISO);
  assert.deepEqual(Object.keys(health), ["status", "timestamp", "queueLength"]);
  assert.deepEqual([healthy, health.status, Number.isInteger(health.queueLength)], [200, "ok", true]);

  const [, metrics, pretty] = await json("GET", "/metrics");
  // But for how others than Node write a whole number that need not be one.
  assert.equal(pretty.replace(/\.0(?=,?\n)/g, ""), JSON.stringify(metrics, null, 2), "pretty, by two spaces");
  const counts = ["activeConnections", "activeGladiaBridges", "totalMessagesReceived", "totalMessagesSent", "totalErrors"];
  for (const field of [...counts, "uptime"]) assert.ok(Number.isInteger(metrics[field]), field);
  for (const field of ["queueLength", "totalQueued", "totalFlushed", "totalErrors"])
    assert.ok(Number.isInteger(metrics.queue[field]), field);
  for (const [name, value] of Object.entries(metrics.counters)) assert.ok(Number.isInteger(value), name);
  for (const [name, entry] of Object.entries(metrics.latency)) {
    assert.ok(Number.isInteger(entry.count) && entry.count > 0, name);
    const { minMs, p50Ms, p95Ms, p99Ms, maxMs, avgMs } = entry;
    const rising = [minMs, p50Ms, p95Ms, p99Ms, maxMs];
    assert.deepEqual(rising, [...rising].sort((one, other) => one - other), name);
    assert.ok(minMs <= avgMs && avgMs <= maxMs, name);
  }
  assert.deepEqual(metrics.sessionClients, {}, "the names of sessions are nobody's business");

  for (const path of ["/", "/health", "/metrics", "/api/transcription/start", "/api/realtime/transcribe", "/no/where"]) {
    const answer = await ask(base + path, { method: "OPTIONS", headers: { Origin: "https://app.example" } });
    assert.deepEqual([answer.status, answer.text], [204, ""], path);
    assert.equal(answer.headers["content-type"], undefined, path);
    assert.equal(answer.headers["access-control-allow-origin"], "*", path);
    assert.equal(answer.headers["access-control-allow-methods"], "GET, POST, OPTIONS", path);
    assert.equal(answer.headers["access-control-allow-headers"], "Content-Type, Authorization", path);
  }
  const missing = (path, method) => ({ error: "Not found", path, method });
  await expect("GET", "/no/where?a=b", undefined, {}, 404, missing("/no/where", "GET"));
  await expect("POST", "/health", {}, {}, 404, missing("/health", "POST"));
  await expect("GET", "/api/transcripts", undefined, {}, 404, missing("/api/transcripts", "GET"));
  await expect("DELETE", "/api/transcription/start", undefined, {}, 404, missing("/api/transcription/start", "DELETE"));
  const broadcast = "/api/realtime/transcribe/broadcast";
  await expect("GET", broadcast, undefined, {}, 404, missing(broadcast, "GET"));
  for (const method of ["GET", "POST", "PUT"])
    await expect(method, "/api/realtime/transcribe", undefined, {}, 426, {
      error: "WebSocket endpoint. Use WebSocket upgrade.",
    });
};

const startAndStop = async () => {
  const [start, stop] = ["/api/transcription/start", "/api/transcription/stop"];
  const missing = { ok: false, error: "Missing sessionId or sessionSlug" };
  for (const body of [{}, { sessionId }, { sessionSlug: slug }, { sessionId: "", sessionSlug: slug }, { sessionId: 7, sessionSlug: slug }])
    await expect("POST", start, body, proof, 400, missing);
  await malformed(start, proof, 500, "message", {
    ok: false,
    mode: "live",
    error: "transcription_start_failed",
    reason: "internal_error",
    message: 0,
  });
  const body = { sessionId, sessionSlug: slug };
  if (key !== undefined) {
    await expect("POST", start, body, {}, 401, { ok: false, error: NO_PROOF });
    await expect("POST", start, { ...body, token: jwt }, {}, 200, { ok: true, mode: "live" });
    await expect("POST", stop, { sessionId }, {}, 401, { error: NO_PROOF });
    await expect("POST", stop, { sessionId }, { Authorization: "Bearer wrong" }, 401, { error: NO_PROOF });
  }
  // Whoever joins starts it again.
  await Promise.all([1, 2, 3].map(() => expect("POST", start, body, proof, 200, { ok: true, mode: "live" })));
  await expect("POST", `${start}/again`, body, proof, 200, { ok: true, mode: "live" });
  await expect("POST", stop, {}, proof, 400, { error: "Missing sessionId" });
  await malformed(stop, proof, 500, "error", { error: 0 });
  await expect("POST", stop, { sessionId }, proof, 200, { success: true, sessionId });
  await expect("POST", stop, { sessionId: "nobody" }, proof, 200, { success: true, sessionId: "nobody" });
  await expect("POST", `${stop}/now`, { sessionId }, proof, 200, { success: true, sessionId });
};

const activeSpeaker = async () => {
  const path = "/api/active-speaker";
  const whole = { sessionSlug: slug, identity: "bob", name: "Bob", timestamp: Date.now(), token: jwt };
  const missing = { error: "Missing required fields: sessionSlug, identity, token" };
  for (const field of ["sessionSlug", "identity", "token"])
    await expect("POST", path, { ...whole, [field]: undefined }, {}, 400, missing);
  const invalid = { error: "Invalid or expired transcription token" };
  const expired = token(secret, slug, "alice", { exp: Math.floor(Date.now() / 1000) - 3600 });
  for (const bad of ["x", token("another secret", slug, "alice"), expired])
    await expect("POST", path, { ...whole, token: bad }, {}, 401, invalid);
  await malformed(path, {}, 500, "error", { error: 0 });
  await expect("POST", path, whole, {}, 200, { success: true });
  await expect("POST", path, { sessionSlug: slug, identity: "bob", token: jwt }, {}, 200, { success: true });
  const other = token(secret, "another-session", "alice");
  await expect("POST", path, { ...whole, token: other }, {}, 403, { error: "This token is not for this session" });
};

/// The fields of system A in a message, in its order; ours come after them.
const fieldsOf = (message, names) => {
  assert.deepEqual(Object.keys(message).slice(0, names.length), names);
  return names.map((name) => message[name]);
};

const captionsFromOutside = async () => {
  const path = "/api/realtime/transcribe/broadcast";
  const nobody = { ok: true, sent: 0, message: "no clients for sessionSlug" };
  const said = { sessionSlug: slug, utteranceId: "u-0", text: "Nobody hears", isFinal: false };
  await expect("POST", path, said, proof, 200, nobody);
  for (const [body, error] of [
    [{}, "Missing sessionSlug"],
    [{ text: "x", utteranceId: "u" }, "Missing sessionSlug"],
    [{ sessionSlug: slug }, "Missing or invalid text"],
    [{ sessionSlug: slug, text: 7, utteranceId: "u" }, "Missing or invalid text"],
    [{ sessionSlug: slug, text: "x" }, "Missing utteranceId"],
  ])
    await expect("POST", path, body, proof, 400, { error });
  await malformed(path, proof, 400, "details", { error: "Invalid JSON", details: 0 });
  if (key !== undefined) await expect("POST", path, said, {}, 401, { error: NO_PROOF });

  const url = websocket(base, `/api/realtime/transcribe?token=${jwt}&sessionSlug=${slug}`);
  const { socket, next, closed } = open(url);
  const connected = await next(() => true);
  assert.equal(typeof connected.ts, "number");
  assert.equal(
    JSON.stringify({ ...connected, ts: 0 }),
    `{"type":"connected","sessionSlug":"${slug}","userId":"alice","message":"WebSocket connection established","ts":0}`,
  );
  assert.equal(socket.extensions, "", "no compression, though it was offered");
  assert.equal(socket.protocol, "");
  const is = (id) => (message) => message.utteranceId === id;
  const one = { ok: true, sent: 1 };
  const whole = { ...said, utteranceId: "u-1", text: "Hello", userId: "u7", speaker: "Bob", speakerId: "bob", ts: 1700000000000 };
  await expect("POST", path, whole, proof, 200, one);
  const names = ["type", "sessionSlug", "utteranceId", "text", "isFinal", "speaker", "speakerId", "userId", "ts"];
  assert.deepEqual(fieldsOf(await next(is("u-1")), names),
    ["transcript_partial", slug, "u-1", "Hello", false, "Bob", "bob", "u7", 1700000000000]);
  await expect("POST", path, { ...whole, text: "Hello there.", isFinal: true }, proof, 200, one);
  assert.deepEqual(fieldsOf(await next(is("u-1")), names),
    ["transcript_final", slug, "u-1", "Hello there.", true, "Bob", "bob", "u7", 1700000000000]);
  // A final that is corrected is shown: only /api/transcripts tells finals once.
  await expect("POST", path, { ...whole, text: "Hello, dear.", isFinal: true }, proof, 200, one);
  const corrected = await next(is("u-1"));
  assert.deepEqual([corrected.type, corrected.text], ["transcript_final", "Hello, dear."]);
  // Speaker and id stand in for each other; neither is there when neither was given.
  for (const [given, shown] of [[{ speaker: "Eve" }, "Eve"], [{ speakerId: "eve" }, "eve"]]) {
    await expect("POST", path, { ...said, utteranceId: `u-${shown}`, ...given }, proof, 200, one);
    const { speaker, speakerId } = await next(is(`u-${shown}`));
    assert.deepEqual([speaker, speakerId], [shown, shown]);
  }
  await expect("POST", path, { ...said, utteranceId: "u-2" }, proof, 200, one);
  const unnamed = await next(is("u-2"));
  assert.ok(!("speaker" in unnamed) && !("speakerId" in unnamed) && !("userId" in unnamed));
  assert.ok(Math.abs(Date.now() - unnamed.ts) < 3_600_000, "ts is now");

  await transcripts(next);
  // What clients of system A say beside that is passed over in silence.
  for (const text of ['{"type":"active_speaker","identity":"bob","name":"Bob","timestamp":1}', '{"type":"active_speaker"}', '{"type":"whatever"}'])
    socket.send(text);
  await expect("POST", path, { ...said, utteranceId: "u-last" }, proof, 200, one);
  const last = await next((message) => message.type === "error" || message.utteranceId === "u-last");
  assert.equal(last.type, "transcript_partial");
  socket.close(1000);
  assert.equal((await closed)[0], 1000);
};

const transcripts = async (next) => {
  const path = "/api/transcripts";
  const body = { sessionSlug: slug, type: "transcript", text: "As it is", extra: { a: [1, null, "é"] }, speaker_id: "x" };
  if (rtmpSecret === undefined) {
    for (const headers of [{}, { Authorization: "Bearer x" }])
      await expect("POST", path, body, headers, 500, { error: "Server configuration error" });
    return;
  }
  for (const headers of [{}, { Authorization: "Bearer x" }, { Authorization: rtmpSecret }])
    await expect("POST", path, body, headers, 401, { error: "Unauthorized" });
  const shown = { Authorization: `Bearer ${rtmpSecret}` };
  await expect("POST", path, { text: "x" }, shown, 400, { error: "Missing sessionSlug" });
  await malformed(path, shown, 400, "details", { error: "Invalid JSON", details: 0 });
  const taken = { ok: true, status: "ok" };
  await expect("POST", path, body, shown, 200, taken);
  const { sessionSlug: _slug, ...rest } = body;
  assert.deepEqual(await next((message) => message.text === "As it is"), rest);
  // A final is told once, however often it comes.
  const final = { type: "transcript_final", utteranceId: "r-1", text: "Once", isFinal: true, speakerId: "room", ts: 7 };
  for (const text of ["Once", "Once", "Twice"])
    await expect("POST", path, { sessionSlug: slug, ...final, text, utteranceId: `r-${text}` }, shown, 200, taken);
  assert.deepEqual(await next((message) => message.text === "Once"), { ...final, utteranceId: "r-Once" });
  assert.deepEqual(await next((message) => message.text !== undefined), { ...final, text: "Twice", utteranceId: "r-Twice" });
};

const refusedUpgrades = async () => {
  const path = "/api/realtime/transcribe";
  const expired = token(secret, slug, "alice", { exp: Math.floor(Date.now() / 1000) - 3600 });
  const bad = [["", "Missing"], ["?token=", "Missing"], ["?token=x", "bad"], [`?token=${expired}`, "bad"],
    [`?token=${token("another secret", slug, "alice")}`, "bad"], [`?token=${jwt}&sessionSlug=another`, "bad"]];
  for (const [query, why] of bad) {
    if (reject) {
      const answer = await ask(base + path + query, { headers: UPGRADE });
      assert.deepEqual([answer.status, answer.text], [401, ""], query);
    } else {
      const { next, closed } = open(websocket(base, path + query));
      assert.equal((await next(() => true)).type, "error");
      const reason = why === "Missing" ? "Missing transcription token" : "Invalid or expired transcription token";
      assert.deepEqual(await closed, [1008, reason], query);
    }
    checks += 1;
  }
  const unknown = await ask(`${base}/api/realtime/other?token=${jwt}`, { headers: UPGRADE });
  assert.deepEqual([unknown.status, unknown.text], [404, ""]);
};

const egress = async () => {
  for (const path of ["/egress/audio", "/egress/audio/", `/egress/audio/${sessionId}`, `/egress/audio/${sessionId}/`]) {
    const { closed } = open(websocket(base, path));
    assert.deepEqual(await closed, [4001, "Invalid URL format. Expected: /egress/audio/{sessionId}/{trackId}"], path);
    checks += 1;
  }
  await expect("POST", "/api/transcription/start", { sessionId, sessionSlug: slug }, proof, 200, { ok: true, mode: "live" });
  const pass = token(secret, slug, "alice", { sessionId, scope: "egress", track: "track-1" });
  const url = websocket(base, `/egress/audio/${sessionId}/track-1${key === undefined ? "" : `?token=${pass}`}`);
  for (let end; end?.[1] !== "Too many errors"; checks += 1) {
    const { socket, closed } = open(url);
    socket.on("open", () => {
      socket.send('{"muted":true}');
      socket.send('{"muted":false}');
      // Four bad frames in a row are forgiven, five are not. A good one has two bytes for each of two channels.
      for (const bytes of [1, 3, 5, 7, 4, 9, 11, 13, 15, 17]) socket.send(Buffer.alloc(bytes, 1));
    });
    end = await closed;
    // The start was answered at once; that there is such a session is known a moment later.
    if (end[0] === 1008) await new Promise((resolve) => setTimeout(resolve, 50));
    else assert.deepEqual(end, [1000, "Too many errors"]);
  }
  await expect("POST", "/api/transcription/stop", { sessionId }, proof, 200, { success: true, sessionId });
};

(async () => {
  await aboutIt();
  await startAndStop();
  await activeSpeaker();
  await captionsFromOutside();
  await refusedUpgrades();
  await egress();
  print({ checks });
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
