// npm's socket.io 4 as an app uses it: whoever connects to `/notifications` is in one room, and each line of its input, a
// JSON array of an event's name and arguments, goes to that room. `gc` has it throw away what nobody holds.
// Run with --expose-gc. Prints its port, and then a line for every line that was done.
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const http = createServer();
// What ws-edge's settings are as well; `ws` compresses nothing unless it is asked to.
const io = new Server(http, { pingInterval: 25000, pingTimeout: 60000, maxHttpBufferSize: 1e6 });
const namespace = io.of("/notifications").on("connection", (socket) => socket.join("everybody"));
http.listen({ port: 0, host: "127.0.0.1", backlog: 8192 }, () => console.log(http.address().port));
require("node:readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "gc") global.gc();
    else namespace.to("everybody").emit(...JSON.parse(line));
    console.log("done");
  })
  .on("close", () => process.exit(0));
