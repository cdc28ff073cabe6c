// A client of `/ws` as system C's own are: npm's `ws`, a token in the query, subscribe inside of `open`.
// node tab.js URL USER_ID EVENTS: prints every message as a line, and ends after so many notifications; exit code 0.
// Without a good token the server closes, which is printed as {"close":CODE,"reason":"…"}; exit code 0 as well.
const WebSocket = require("ws");
const [url, userId, events] = process.argv.slice(2);
let left = Number(events);
const socket = new WebSocket(url);
socket.on("open", () => {
  socket.send(JSON.stringify({ type: "subscribe", channel: { type: "notifications", userId } }));
  socket.send(JSON.stringify({ type: "ping" }));
});
socket.on("message", (data) => {
  const text = data.toString();
  console.log(text);
  if (JSON.parse(text).type === "notification" && --left === 0) socket.close(1000);
});
socket.on("close", (code, reason) => {
  console.log(JSON.stringify({ close: code, reason: reason.toString() }));
  process.exit(0);
});
socket.on("error", (error) => {
  console.error(error.message);
  process.exit(1);
});
