// A client of Socket.IO that does what it is told: npm's socket.io-client 4, 3 (both EIO4) or 2 (EIO3).
// node socketio.js '{"version":4,"url":"http://…","transports":["polling","websocket"],"options":{…},"namespaces":["/"]}'
// Orders are JSON lines:
//   {"emit":[NAME,ARGUMENT…],"namespace"?,"ack"?:ID,"times"?:N}  {"open":NAMESPACE,"auth"?}  {"close":NAMESPACE}
//   {"auth":…,"namespace"?}, which it says when it comes back
//   {"cut":true}, which loses the connection  {"end":true}, which ends this program; exit code 0.
// It prints JSON lines: {"is":"open"|"upgraded"|"connected"|"event"|"ack"|"refused"|"disconnected"|"closed"|"broken",…}.
// Bytes are {"$bytes":BASE64} in both; {"$text":N} and {"$zeros":N} in an order are so many letters and bytes.
const { createInterface } = require("node:readline");
const { print } = require("./peer.js");

const { version, url, transports, options, namespaces } = JSON.parse(process.argv[2]);
const { Manager } = require(`socket.io-client-${version}`);

/// What an order means by a value.
const meant = (value) => {
  if (Array.isArray(value)) return value.map(meant);
  if (typeof value !== "object" || value === null) return value;
  if ("$bytes" in value) return Buffer.from(value.$bytes, "base64");
  if ("$zeros" in value) return Buffer.alloc(value.$zeros);
  if ("$text" in value) return "x".repeat(value.$text);
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, meant(inner)]));
};

/// A value as it is printed.
const shown = (value) => {
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== "object" || value === null) return value;
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return { $bytes: Buffer.from(value).toString("base64") };
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, shown(inner)]));
};

const manager = new Manager(url, { transports, autoConnect: false, ...options });

// How a WebSocket ends, which the client's own events do not tell in every version.
const watch = ({ ws }) => {
  if (ws === undefined) return;
  ws.addEventListener("close", ({ code, reason }) => print({ is: "closed", code, reason }));
  ws.addEventListener("error", ({ error, message }) => print({ is: "broken", code: error?.code, message }));
};
manager.on("open", () => {
  const { engine } = manager;
  print({ is: "open", transport: engine.transport.name });
  watch(engine.transport);
  engine.on("upgrade", (transport) => {
    print({ is: "upgraded", transport: transport.name });
    watch(transport);
  });
});
// Whoever listens to no errors dies of one in version 2.
manager.on("connect_error", () => {});
manager.on("error", () => {});

const sockets = new Map();
const open = (namespace, auth) => {
  const socket = manager.socket(namespace, { auth });
  sockets.set(namespace, socket);
  const refused = (error) => {
    const data = error instanceof Error ? error.data : error;
    print({ is: "refused", namespace, message: error.message ?? String(error), data: data ?? null });
  };
  socket.on("connect", () => print({ is: "connected", namespace, id: socket.id }));
  socket.on("disconnect", (reason) => print({ is: "disconnected", namespace, reason }));
  socket.on("connect_error", refused);
  const event = (...said) => print({ is: "event", namespace, name: said[0], args: shown(said.slice(1)) });
  if (version > 2) {
    socket.onAny(event);
  } else {
    // It has no listener for everything, and calls what refuses it an event.
    const { onevent, onpacket } = socket;
    socket.onevent = (packet) => {
      event(...packet.data);
      onevent.call(socket, packet);
    };
    socket.onpacket = (packet) => {
      if (packet.type === 4 && packet.nsp === namespace) refused(packet.data);
      onpacket.call(socket, packet);
    };
    socket.on("error", () => {});
  }
  socket.open();
};
for (const namespace of namespaces) open(namespace, options?.auth);

const follow = (order) => {
  const socket = sockets.get(order.namespace ?? "/");
  if (order.emit !== undefined) {
    const said = meant(order.emit);
    const answer = (...args) => print({ is: "ack", of: order.ack, args: shown(args) });
    for (let times = order.times ?? 1; times > 0; times -= 1)
      socket.emit(...said, ...(order.ack === undefined ? [] : [answer]));
  } else if (order.auth !== undefined && order.open === undefined) socket.auth = order.auth;
  else if (order.open !== undefined) open(order.open, order.auth);
  else if (order.close !== undefined) sockets.get(order.close).disconnect();
  else if (order.cut !== undefined) manager.engine.transport.ws.terminate();
  else if (order.end !== undefined) process.exit(0);
};
createInterface({ input: process.stdin }).on("line", (line) => follow(JSON.parse(line))).on("close", () => process.exit(0));
