// A real Chromium, and a wire to it that can be cut: what those who sit at the pages share.
const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { chromium } = require("playwright-core");

const PATIENCE_MS = 60_000;
const ROOT = path.join(__dirname, "../../..");
/// Ours, as it was built last for whoever runs this.
const PARLEY = path.join(process.env.CARGO_TARGET_DIR ?? path.join(ROOT, "target"), process.env.PARLEY_BUILD ?? "release", "parley");
const FFMPEG = path.join(ROOT, ".parley/tools/ffmpeg");
/// Half a minute of somebody who reads.
const RECORDING = path.join(process.env.PARLEY_MODEL_DIR ?? "", "two_cities.wav");
/// What pages did that none should.
const faults = [];

const executable = () => ["chromium", "chromium-browser", "google-chrome"]
  .flatMap((name) => process.env.PATH.split(path.delimiter).map((folder) => path.join(folder, name)))
  .find((file) => fs.existsSync(file));

/// With a recording as its microphone, or a tone without one.
const launch = (recording) => chromium.launch({
  executablePath: executable(),
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
    ...(recording ? [`--use-file-for-fake-audio-capture=${recording}%noloop`] : [])],
});

/// Opens a page that must ask nobody else, say nothing bad in its log, and be ready.
const open = async (context, origin, where) => {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("pageerror", (error) => faults.push(`${where}: ${error.stack}`));
  page.on("console", (message) => {
    const text = message.text();
    // A network that is cut, and a WebSocket that is refused, are what some stories are about; and pages ask whether this is `make run`.
    const isExpected = /net::ERR_|WebSocket connection to/.test(text) || message.location().url.endsWith("/api/dev/token");
    if (message.type() === "error" && !isExpected) faults.push(`${where}: ${text}`);
  });
  page.on("request", (request) => {
    if (!/^(blob|data):/.test(request.url()) && new URL(request.url()).origin !== origin) faults.push(`${where} asks ${request.url()}`);
  });
  await page.goto(origin + where);
  await page.waitForSelector("html[data-ready]");
  return page;
};

/// One that may use the microphone.
const context = (browser, more) => browser.newContext({ viewport: { width: 1440, height: 1000 }, locale: "en", permissions: ["microphone"], ...more });

/// A wire to the server that can be cut.
const wire = async (base) => {
  const target = new URL(base);
  const open = new Set();
  let isCut = false;
  const server = net.createServer((near) => {
    if (isCut) return near.destroy();
    const far = net.connect(Number(target.port), target.hostname);
    open.add(near).add(far);
    near.pipe(far).pipe(near);
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => { open.delete(one); other.destroy(); });
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    cut() { isCut = true; for (const socket of open) socket.destroy(); },
    mend() { isCut = false; },
    close() { server.close(); for (const socket of open) socket.destroy(); },
  };
};

const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

module.exports = { FFMPEG, PARLEY, RECORDING, context, faults, launch, open, sleep, wire };
