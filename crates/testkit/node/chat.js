// The test of system B's chat that its own server could not pass: WebSocket and nothing else, every event of its contract.
// node chat.js '{"url":"http://localhost:3002","room":"a room that is new"}'
// Prints what was checked as {"checks":N}; exit code 0 if all is as the contract says.
const assert = require("node:assert/strict");
const { io } = require("socket.io-client-4");
const { print } = require("./peer.js");

const { url, room } = JSON.parse(process.argv[2]);
const PATIENCE_MS = 20_000;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
let checks = 0;
const check = (...what) => {
  checks += 1;
  assert.deepEqual(...what);
};

/// A page of the chat that keeps what it is told, in order.
const page = async () => {
  const socket = io(url, { transports: ["websocket"], forceNew: true, reconnection: false, timeout: PATIENCE_MS });
  const told = [];
  let wake = () => {};
  socket.onAny((name, ...said) => {
    told.push([name, ...said]);
    wake();
  });
  const opened = new Promise((resolve, reject) => {
    socket.on("connect", resolve);
    socket.on("connect_error", reject);
  });
  /// Waits for an event of this name; its place among those that it was told.
  const place = async (name, wanted) => {
    for (;;) {
      const at = told.findIndex(([other, said]) => other === name && wanted(said));
      if (at >= 0) return at;
      await new Promise((resolve, reject) => {
        const late = setTimeout(() => reject(new Error(`waited in vain for ${name}: ${JSON.stringify(told)}`)), PATIENCE_MS);
        wake = () => {
          clearTimeout(late);
          resolve();
        };
      });
    }
  };
  /// Waits for an event, before or after whatever else.
  const hears = async (name, wanted) => void (await place(name, wanted));
  /// The next event of this name; those before it are passed over.
  const next = async (name, wanted = () => true) => told.splice(0, (await place(name, wanted)) + 1).at(-1)[1];
  await opened;
  // It is never sent elsewhere than on a WebSocket.
  check(socket.io.engine.transport.name, "websocket");
  return { socket, hears, next, told };
};

/// A user of the chat as the contract has it.
const checkUser = (user, username) => {
  check(user.username, username);
  check(user.isOnline, true);
  for (const field of ["joinedAt", "lastSeen"]) assert.match(user[field], ISO);
  assert.equal(typeof user.id, "string");
};

/// A message of the chat as the contract has it; ours may say more.
const checkMessage = (message, { userId, username, content, type = "text", roomId }) => {
  for (const [field, value] of Object.entries({ userId, username, content, type, roomId })) check(message[field], value);
  assert.equal(typeof message.id, "string");
  assert.match(message.timestamp, ISO);
};

/// Whoever sets a name is told who it is, what was said, and who is there; in this order.
const enter = async (name) => {
  const one = await page();
  check(await one.next("connected"), { userId: one.socket.id, username: `User-${one.socket.id.slice(0, 6)}` });
  one.socket.emit("setUsername", `  ${name} `);
  const connected = await one.next("connected");
  assert.match(connected.userId, UUID);
  check(connected.username, name);
  const history = await one.next("messageHistory");
  assert.ok(Array.isArray(history) && history.length <= 50, "at most 50 messages");
  const users = await one.next("roomUsers");
  checkUser(users.find((user) => user.id === connected.userId), name);
  return { ...one, id: connected.userId, name };
};

(async () => {
  const nobody = await page();
  nobody.socket.emit("sendMessage", { content: "who am I" });
  check(await nobody.next("error"), "Please set your username first");

  // Who waits for nothing is told all the same.
  const hasty = await page();
  hasty.socket.emit("setUsername", "Hasty");
  hasty.socket.emit("joinRoom", `hasty ${room}`);
  hasty.socket.emit("sendMessage", { content: "at once", type: "text", roomId: `hasty ${room}` });
  hasty.socket.emit("requestHistory", `hasty ${room}`);
  await hasty.hears("message", ({ content }) => content === "at once");
  await hasty.hears("messageHistory", (messages) => messages.length === 1 && messages[0].content === "at once");
  hasty.socket.disconnect();

  const alice = await enter("Alice");
  const bob = await enter("Bob");
  checkUser(await alice.next("userJoined", (user) => user.id === bob.id), "Bob");

  // In the room that everybody is in.
  const hello = `hello ${room}`;
  alice.socket.emit("sendMessage", { content: ` ${hello} ` });
  for (const one of [alice, bob]) {
    const message = await one.next("message", ({ content }) => content === hello);
    checkMessage(message, { userId: alice.id, username: "Alice", content: hello, roomId: "general" });
  }
  for (const isTyping of [true, false]) {
    bob.socket.emit("typing", isTyping);
    const typing = await alice.next("userTyping", ({ userId }) => userId === bob.id);
    check([typing.username, typing.isTyping], ["Bob", isTyping]);
  }

  // In a room of their own, which keeps its own history and the names that were said in it.
  for (const one of [alice, bob]) {
    one.socket.emit("joinRoom", room);
    check(await one.next("messageHistory"), []);
    one.socket.emit("requestHistory", room);
    check(await one.next("messageHistory"), []);
  }
  const said = [];
  for (const [one, type, content] of [
    [alice, "text", "one"],
    [bob, "text", "two"],
    [bob, "image", "https://images.example/three.png"],
    [alice, "file", "https://files.example/four.pdf"],
  ]) {
    one.socket.emit("sendMessage", { content, type, roomId: room });
    for (const other of [alice, bob]) {
      const message = await other.next("message", (message) => message.content === content);
      checkMessage(message, { userId: one.id, username: one.name, content, type, roomId: room });
    }
    said.unshift([one.name, type, content]);
  }
  bob.socket.emit("requestHistory", room);
  const history = await bob.next("messageHistory");
  check(history.map(({ username, type, content }) => [username, type, content]), said, "newest first");
  check(new Set(history.map(({ id }) => id)).size, said.length, "an id for each");
  alice.socket.emit("leaveRoom", room);
  // Events of one socket are taken in order, so this is the answer of somebody who has left.
  alice.socket.emit("requestHistory");
  await alice.next("messageHistory");
  bob.socket.emit("sendMessage", { content: "nobody hears", roomId: room });
  await bob.next("message", ({ content }) => content === "nobody hears");
  bob.socket.emit("sendMessage", { content: `bye ${room}` });
  await alice.next("message", ({ content }) => content === `bye ${room}`);
  check(alice.told.filter(([name, message]) => name === "message" && message.content === "nobody hears"), []);

  bob.socket.disconnect();
  await alice.next("userLeft", (id) => id === bob.id);
  const left = await alice.next("roomUsers", (users) => users.every((user) => user.id !== bob.id));
  check(left.filter((user) => user.id === alice.id).length, 1);
  print({ checks });
  process.exit(0);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
