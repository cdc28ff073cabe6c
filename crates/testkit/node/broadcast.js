// Node's `ws` as system C uses it: accepts sockets, and sends each line of its input to all of them. `gc` has it throw
// away what nobody holds.
// Run with --expose-gc. Prints its port, and then a line for every line that was done.
const { WebSocketServer } = require("ws");
const server = new WebSocketServer({ port: 0, host: "127.0.0.1", perMessageDeflate: false, backlog: 8192 });
server.on("listening", () => console.log(server.address().port));
require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line === "gc") global.gc();
    else for (const client of server.clients) client.send(line);
    console.log("done");
  })
  .on("close", () => process.exit(0));
