// What the pages cost a browser and how late they are, in a real Chromium at a server that `parley-up --with` or `--chaos` runs.
//   node measure.js pace               20 captions a second: frames a second, and what the page moved
//   node measure.js overlay            from speech in an encoder to the overlay, five times
//   node measure.js soak [MINUTES]     captions for so long (60): memory of the transcript; of the overlay in the first ten,
//                                      with its network cut for five seconds every two minutes
// Prints what it saw; exit code 1 if a bar was missed.
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const { once } = require("node:events");
const { FFMPEG, PARLEY, RECORDING, context, faults, launch, open, sleep, wire } = require("./browser.js");

const { PARLEY_URL, RTMP_EXTERNAL_PORT } = process.env;
const OVERLAY = { viewport: { width: 1920, height: 1080 } };
const session = `measured-${Date.now().toString(36)}`;

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const row = (what, ...values) => console.log(`${what.padEnd(52)} ${values.join(" / ")}`);

/// What a page keeps, in bytes and nodes, when all that can be freed is.
const kept = async (page) => {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("HeapProfiler.collectGarbage");
  const { usedSize } = await devtools.send("Runtime.getHeapUsage");
  const { nodes, jsEventListeners } = await devtools.send("Memory.getDOMCounters");
  await devtools.detach();
  return { heap: usedSize, nodes, listeners: jsEventListeners };
};

const MEASURES = {
  async pace(browser) {
    const [perSecond, seconds] = [20, 20];
    const page = await open(await context(browser), PARLEY_URL, `/transcript/${session}`);
    const seen = await page.evaluate(async ({ perSecond, seconds }) => {
      const { CaptionView } = await import("/pages/captions.js");
      document.querySelector("#reading").hidden = false;
      const view = new CaptionView(document.querySelector("#log"), document.querySelector("#live"));
      let moved = 0;
      new PerformanceObserver((list) => { for (const entry of list.getEntries()) moved += entry.value; }).observe({ type: "layout-shift" });
      const frames = [];
      const words = "one two three four five six seven eight nine ten".split(" ");
      let number = 0;
      const coming = setInterval(() => {
        const utterance = Math.floor(number / 10);
        const caption = { utteranceId: `u-${utterance}`, text: words.slice(0, 1 + number % 10).join(" "), stable: 4, isFinal: number % 10 === 9,
          speaker: `speaker ${utterance % 4}`, speakerId: `s${utterance % 4}`, ts: Date.now(), language: "en" };
        number += 1;
        if (caption.isFinal) view.final(caption);
        else view.partial(caption);
      }, 1000 / perSecond);
      const end = performance.now() + seconds * 1000;
      for (let last = performance.now(); last < end;) {
        const now = await new Promise(requestAnimationFrame);
        frames.push(now - last);
        last = now;
      }
      clearInterval(coming);
      return { frames: frames.slice(1), moved, number };
    }, { perSecond, seconds });
    const all = seen.frames.reduce((sum, frame) => sum + frame, 0);
    const rate = (seen.frames.length * 1000) / all;
    row("captions a second", (seen.number / (all / 1000)).toFixed(1));
    row("frames a second", rate.toFixed(1));
    row("frame p50 / p99 / longest, ms", ...[0.5, 0.99, 1].map((part) =>
      [...seen.frames].sort((a, b) => a - b)[Math.min(seen.frames.length - 1, Math.floor(part * seen.frames.length))].toFixed(1)));
    row("layout shift", seen.moved.toFixed(4));
    assert.ok(rate > 58, "60 frames a second, but for what a busy machine takes");
    assert.ok(seen.moved < 0.1);
  },

  async overlay(browser) {
    const page = await open(await context(browser, OVERLAY), PARLEY_URL, `/overlay/${session}?hide=2`);
    await page.waitForSelector("html[data-state=open]");
    const shown = [];
    await page.exposeFunction("shown", (text) => { shown.push({ at: performance.now(), text }); });
    await page.evaluate(() => new MutationObserver(() => window.shown(document.querySelector("#captions").textContent))
      .observe(document.querySelector("#captions"), { childList: true }));

    // Its first four sentences, which one can see begin and end in its samples; then silence until the overlay is empty again.
    const [begins, ends, rate] = [1.2, 8.1, 48_000];
    const said = execFileSync(FFMPEG, ["-v", "error", "-i", RECORDING, "-t", "8.6", "-f", "s16le", "-ar", String(rate), "-ac", "1", "pipe:1"],
      { maxBuffer: 1 << 24 });

    const key = execFileSync(PARLEY, ["key", "create", "--session", session], { encoding: "utf8" }).trim().split(/\s+/).at(-1);
    const encoder = spawn(FFMPEG, ["-v", "error", "-f", "s16le", "-ar", String(rate), "-ac", "1", "-probesize", "32", "-i", "pipe:0",
      "-c:a", "aac", "-b:a", "128k", "-flush_packets", "1", "-f", "flv", `rtmp://127.0.0.1:${RTMP_EXTERNAL_PORT}/live/${key}`],
    { stdio: ["pipe", "inherit", "inherit"] });
    const step = rate / 10 * 2;
    const silence = Buffer.alloc(6 * rate * 2);
    const delays = { first: [], last: [] };
    let next = performance.now();
    const play = async (bytes) => {
      const began = next;
      for (let at = 0; at < bytes.length; at += step) {
        await sleep(Math.max(0, next - performance.now()));
        encoder.stdin.write(bytes.subarray(at, at + step));
        next += (bytes.subarray(at, at + step).length / 2 / rate) * 1000;
      }
      return began;
    };
    await play(silence.subarray(0, 2 * rate * 2));
    for (let i = 0; i < 5; i++) {
      shown.length = 0;
      const began = await play(said);
      await play(silence);
      // Sound is written once a tenth of a second; what is written then has been spoken before, at a microphone.
      const texts = shown.filter(({ text }) => text);
      delays.first.push(texts[0].at - (began + begins * 1000));
      const last = texts.find(({ text }) => /foolishness/i.test(text));
      assert.ok(last, `its last word is shown: ${JSON.stringify(texts.map(({ text }) => text))}`);
      delays.last.push(last.at - (began + ends * 1000));
    }
    encoder.stdin.end();
    await once(encoder, "exit");
    row("speech begins until words are shown, ms", ...delays.first.map(Math.round));
    row("its last word ends until it is shown, ms", ...delays.last.map(Math.round));
    assert.ok(Math.max(...delays.first, ...delays.last) < 2_000, "within two seconds");
  },

  async soak(browser, minutes = "60") {
    const began = Date.now();
    const passed = () => (Date.now() - began) / 60_000;
    const cable = await wire(PARLEY_URL);
    const reader = await open(await context(browser), PARLEY_URL, `/transcript/${session}`);
    let overlay = await open(await context(browser, OVERLAY), cable.origin, `/overlay/${session}`);
    let speaking = true;
    const speaker = (async () => {
      while (speaking) {
        const child = spawn(PARLEY, ["stream", RECORDING, "--session", session, "--identity", "speaker", "--realtime"], { stdio: "ignore" });
        const [code] = await once(child, "exit");
        assert.equal(code, 0, "the recording is streamed");
      }
    })();
    speaker.catch(() => { speaking = false; });
    const sizes = { reader: [], overlay: [] };
    const note = async (name, page) => {
      const size = await kept(page);
      sizes[name].push(size);
      row(`${passed().toFixed(1)} min: ${name}: KB / nodes / listeners`, Math.round(size.heap / 1024), size.nodes, size.listeners);
    };
    while (speaking && passed() < Number(minutes)) {
      await sleep(115_000);
      if (overlay) {
        cable.cut();
        await sleep(5_000);
        cable.mend();
        await overlay.waitForSelector("html[data-state=open]");
        const before = await overlay.textContent("#captions");
        await overlay.waitForFunction(([before]) => ![before, ""].includes(document.querySelector("#captions").textContent), [before]);
        await note("overlay", overlay);
        if (passed() > 10) {
          await overlay.context().close();
          overlay = undefined;
        }
      }
      await note("reader", reader);
    }
    row("lines that are shown", await reader.$$eval("#log .line", (lines) => lines.length));
    speaking = false;
    await speaker;
    cable.close();
    for (const [name, all] of Object.entries(sizes)) {
      // The first tell what a page needs, with its log not yet full; growth is what comes after.
      const part = Math.max(1, Math.floor(all.length / 3));
      const [first, last] = [all.slice(part, 2 * part), all.slice(-part)].map((some) => median(some.map(({ heap }) => heap)));
      row(`${name}: KB in the second third / in the last`, Math.round(first / 1024), Math.round(last / 1024));
      assert.ok(last < first * 1.1 + 250_000, `${name} grows`);
    }
  },
};

(async () => {
  const [measure, ...more] = process.argv.slice(2);
  assert.ok(MEASURES[measure] && PARLEY_URL, `node measure.js ${Object.keys(MEASURES).join(" | ")}, run by parley-up --with`);
  const browser = await launch();
  try {
    await MEASURES[measure](browser, ...more);
    assert.deepEqual(faults, []);
  } finally {
    await browser.close();
  }
})().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
