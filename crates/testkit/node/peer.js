// What the programs for system A share: how its web app signs tokens, and how they ask.
const { createHmac } = require("node:crypto");
const http = require("node:http");

const base64 = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/// A transcription token as system A's web app issues it; `claims` overrule.
exports.token = (secret, sessionSlug, identity, claims = {}) => {
  const iat = Math.floor(Date.now() / 1000);
  const all = { sub: identity, sessionId: `id-${sessionSlug}`, sessionSlug, identity, iat, exp: iat + 3600, ...claims };
  const signed = `${base64({ alg: "HS256", typ: "JWT" })}.${base64(all)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
};

/// Sends one request on a connection of its own: status, headers and text of the answer. `body` is sent as JSON unless it
/// is text.
exports.ask = (url, { method = "GET", body, headers = {} } = {}) =>
  new Promise((resolve, reject) => {
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    const sent = text === undefined ? headers : { "Content-Type": "application/json", ...headers };
    const request = http.request(url, { method, headers: sent, agent: false }, (answer) => {
      let said = "";
      answer.setEncoding("utf8").on("data", (part) => (said += part));
      answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, text: said }));
    });
    request.on("error", reject);
    // What was refused before the upgrade, and what was not refused.
    request.on("upgrade", (answer, socket) => {
      socket.destroy();
      resolve({ status: answer.statusCode, headers: answer.headers, text: "" });
    });
    request.end(text);
  });

/// The same place for a WebSocket, as system A's web app makes it from NEXT_PUBLIC_WS_SERVER_URL.
exports.websocket = (base, path) => base.replace(/^http/, "ws") + path;

exports.print = (line) => console.log(JSON.stringify(line));
