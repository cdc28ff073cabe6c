// Deepgram's own SDK, told another base URL: sends a file at twice the pace of speech and prints what it is told.
// node deepgram.js '{"url":"ws://…","key":…,"file":PATH,"options":{…},"finalizeAfter"?:BYTES}'
// Prints JSON lines: every message as the SDK has read it, then {"is":"closed","code":…}.
const { readFileSync } = require("node:fs");
const { DeepgramClient } = require("@deepgram/sdk");
const { print } = require("./peer.js");

const { url, key, file, options, finalizeAfter } = JSON.parse(process.argv[2]);
const http = url.replace("ws", "http");
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

const main = async () => {
  const environment = { base: http, production: url, agent: url, agentRest: http };
  const client = new DeepgramClient({ apiKey: key, environment });
  const connection = await client.listen.v1.connect({ ...options, reconnectAttempts: 0 });
  const closed = new Promise((done) => connection.on("close", done));
  connection.on("message", (message) => print(message));
  connection.on("error", (error) => print({ is: "error", error: String(error) }));
  connection.connect();
  await connection.waitForOpen();
  connection.sendKeepAlive({ type: "KeepAlive" });
  const sound = readFileSync(file);
  let finalized = finalizeAfter;
  for (let begin = 0; begin < sound.length; begin += 3200) {
    connection.sendMedia(sound.subarray(begin, begin + 3200));
    if (finalized !== undefined && begin >= finalized) {
      finalized = undefined;
      connection.sendFinalize({ type: "Finalize" });
    }
    await pause(50);
  }
  connection.sendCloseStream({ type: "CloseStream" });
  const { code } = await closed;
  print({ is: "closed", code });
  process.exit(0);
};

main();
