// A person at the pages of ws-edge: a real Chromium whose microphone is a recording.
// node pages.js '{"story":"speak","base":"http://127.0.0.1:8080","session":"a new one","recording":"speech.wav"}'
// Needs a server with PARLEY_DEV=true. Prints JSON lines; the last is what the page showed. Exit code 0 if all went well.
const assert = require("node:assert/strict");
const fs = require("node:fs");
const { context, faults, launch, open: openAt, sleep, wire } = require("./browser.js");
const { print, token: sign } = require("./peer.js");

const { story, base, session, recording, words, userToken, token, secret, lines } = JSON.parse(process.argv[2]);
const AXE = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];

// Whoever reads the lines takes silence for a hang; a busy machine is none.
setInterval(() => print({ alive: true }), 5_000).unref();

const open = (context, where, origin = base) => openAt(context, origin, where);
const texts = (page, selector) => page.$$eval(selector, (nodes) => nodes.map((node) => node.textContent));
/// Waits until the captions of the log, as one text, hold these words.
const reads = (page, wanted) => page.waitForFunction(([wanted]) =>
  [...document.querySelectorAll("#log .text")].map((node) => node.textContent).join(" ").toLowerCase().includes(wanted), [wanted.toLowerCase()]);
const stopped = (page) => page.waitForFunction(() => document.querySelector("#start").textContent === "Start speaking" && !document.querySelector("#start").disabled);

const STORIES = {
  /// One button, and the words are there; nothing on the page moved.
  async speak(browser) {
    const page = await open(await context(browser), `/console?session=${session}`);
    await page.evaluate(() => {
      window.moved = 0;
      new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.moved += entry.value;
      }).observe({ type: "layout-shift" });
      window.partials = 0;
      new MutationObserver(() => { window.partials += document.querySelectorAll("#live .partial .stable").length; })
        .observe(document.querySelector("#live"), { childList: true });
    });
    await page.click("#start");
    await reads(page, words);
    await page.click("#start");
    await stopped(page);
    const finals = await texts(page, "#log .text");
    const { moved, partials } = await page.evaluate(() => ({ moved: window.moved, partials: window.partials }));
    assert.ok(partials > 0, "partials were shown, with their stable part");
    assert.ok(moved < 0.1, `the page moved by ${moved}`);
    const [asked] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
    assert.match(fs.readFileSync(await asked.path(), "utf8"), /-->/);
    await page.fill("#search", words.split(" ")[0]);
    assert.ok(await page.$("#log mark"), "what is looked for is marked");
    return { finals };
  },

  /// The network is away for five seconds in the middle; everything that was said is in the session.
  async cut(browser) {
    const cable = await wire(base);
    const page = await open(await context(browser), `/console?session=${session}`, cable.origin);
    await page.click("#start");
    await page.waitForSelector("#live .partial");
    cable.cut();
    await page.waitForSelector("#state[data-state=waiting], #state[data-state=connecting]");
    await sleep(5_000);
    cable.mend();
    await reads(page, words);
    await page.click("#start");
    await stopped(page);
    const finals = await texts(page, "#log .text");
    const log = await texts(page, "#connection li");
    cable.close();
    return { finals, log };
  },

  /// The token ends while somebody speaks and the application has no other until then; the next is renewed in time.
  async expire(browser) {
    const page = await open(await context(browser), `/console?session=${session}`);
    const reasons = [];
    let renewed;
    const isRenewed = new Promise((resolve) => { renewed = resolve; });
    await page.exposeFunction("issue", (reason) => {
      reasons.push(reason);
      if (reasons.length === 2) throw new Error("the application is away");
      if (reasons.length === 4) renewed();
      // One is renewed when a quarter of its time is left, or a minute.
      const seconds = [12, 0, 20, 3600][reasons.length - 1];
      return sign(secret, session, "alice", { exp: Math.floor(Date.now() / 1000) + seconds });
    });
    const finals = await page.evaluate(async ([words]) => {
      const { Captions } = await import("/parley.js");
      const captions = (window.captions = new Captions({ token: (reason) => window.issue(reason) }));
      const texts = new Map();
      const all = () => [...texts.values()];
      const heard = new Promise((resolve, reject) => {
        captions.on("final", ({ utteranceId, text }) => {
          texts.set(utteranceId, text);
          if (all().join(" ").toLowerCase().includes(words)) resolve();
        });
        captions.on("error", reject);
      });
      await captions.start();
      await heard;
      return all();
    }, [words]);
    await isRenewed;
    await page.evaluate(() => window.captions.stop());
    assert.deepEqual(reasons, ["connect", "refresh", "expired", "refresh"]);
    return { finals };
  },

  /// A microphone is free again whenever nobody is heard: refused, closed, or closed before the person has allowed it.
  async free(browser) {
    const page = await open(await context(browser), `/console?session=${session}`);
    const told = await page.evaluate(async ([token]) => {
      const { Captions } = await import("/parley.js");
      const tracks = [];
      let allow = Promise.resolve();
      const { mediaDevices } = navigator;
      const ask = mediaDevices.getUserMedia.bind(mediaDevices);
      mediaDevices.getUserMedia = async (wanted) => {
        await allow;
        const stream = await ask(wanted);
        tracks.push(...stream.getTracks());
        return stream;
      };
      const ended = async () => {
        while (tracks.some(({ readyState }) => readyState !== "ended")) await new Promise(requestAnimationFrame);
        return tracks.splice(0).length;
      };
      const told = [];
      // It may only follow; and it may be tried again.
      const refused = new Captions({ token });
      for (let i = 0; i < 2; i++) told.push(await refused.start().catch(({ name, code }) => `${name} ${code}`), await ended());

      let yes;
      for (const end of ["close", "stop"]) {
        allow = new Promise((resolve) => { yes = resolve; });
        const closed = new Captions({ token });
        const starting = closed.start().catch(({ code }) => code);
        await closed[end]();
        yes();
        told.push(await starting, await ended(), closed.state);
      }
      return told;
    }, [token]);
    assert.deepEqual(told, ["TokenError forbidden", 1, "TokenError forbidden", 1, "closed", 1, "idle", "closed", 1, "idle"]);
    return { told };
  },

  /// Somebody pastes a token that is wrong, is told, and pastes a good one.
  async sign(browser) {
    const page = await open(await context(browser), "/console");
    const give = async (text) => {
      await page.waitForSelector("#sign-in:not([hidden])");
      await page.fill("#token", text);
      await page.press("#token", "Enter");
    };
    await give(token.slice(0, -4));
    await page.waitForSelector("#state[data-state=failed]");
    await page.reload();
    await page.waitForSelector("html[data-ready]");
    await give(token);
    await page.waitForSelector("#state[data-state=open]");
    return { signed: true };
  },

  /// No WebSocket gets through: after three tries the words come over HTTP.
  async fallback(browser) {
    const page = await open(await context(browser), `/console?session=${session}`);
    // The follower has its socket; those of the speaker are refused from here on.
    await page.evaluate(() => {
      window.WebSocket = class extends EventTarget {
        constructor() { super(); this.readyState = 3; setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 0); }
        close() {}
      };
    });
    await page.click("#start");
    await reads(page, words);
    assert.ok(await page.$("#log .tag"), "they say how they came");
    return { finals: await texts(page, "#log .text") };
  },

  /// An overlay, opened as OBS does; words come while the line `go` is waited for elsewhere.
  async overlay(browser) {
    const page = await open(await context(browser, { viewport: { width: 1920, height: 1080 } }), `/overlay/${session}?speakers=1#token=${token}`);
    assert.equal(new URL(page.url()).hash, "", "the token is out of the address");
    await page.waitForSelector("html[data-state=open]");
    const box = () => page.$eval("#captions", (node) => JSON.stringify(node.getBoundingClientRect()));
    const [before, colour] = [await box(), await page.evaluate(() => getComputedStyle(document.body).backgroundColor)];
    assert.equal(colour, "rgba(0, 0, 0, 0)", "it is transparent");
    print({ ready: true });
    await page.waitForFunction(([wanted]) => document.querySelector("#captions").textContent.toLowerCase().includes(wanted), [words.toLowerCase()]);
    assert.equal(await box(), before, "its box is where it was");
    return { text: await page.textContent("#captions") };
  },

  /// Three tabs of one user have one connection and one count; when its tab goes, the others go on.
  async tabs(browser) {
    const shared = await context(browser);
    const sockets = new Map();
    shared.on("page", (page) => {
      sockets.set(page, 0);
      page.on("websocket", (socket) => {
        if (new URL(socket.url()).pathname === "/ws") {
          sockets.set(page, sockets.get(page) + 1);
          socket.on("close", () => sockets.set(page, sockets.get(page) - 1));
        }
      });
    });
    const tab = () => open(shared, `/console?session=${session}#userToken=${userToken}`);
    const connected = () => [...sockets].filter(([page, count]) => !page.isClosed() && count > 0).map(([page]) => page);
    const counts = (pages, count) => Promise.all(pages.map((page) => page.waitForFunction(([count]) => document.querySelector("#unread").textContent === count, [String(count)])));
    const tabs = [await tab(), await tab(), await tab()];
    // Its first news reaches all, whichever has the connection.
    await tabs[2].click("#notify");
    await counts(tabs, 1);
    assert.equal(connected().length, 1, "one tab has the connection");
    await tabs[1].click("#read");
    await counts(tabs, 0);
    const [leader] = connected();
    await leader.close();
    const left = tabs.filter((page) => page !== leader);
    await left[0].click("#notify");
    await counts(left, 1);
    assert.equal(connected().length, 1, "another has it now");
    return { left: left.length };
  },

  /// Every page in both colours, three languages and three widths: axe finds nothing, nothing is wider than the screen.
  async access(browser) {
    const found = [];
    for (const [where, ready] of [["/console", "#state[data-state=open]"], ["/overlay", "#address"], [`/transcript/${session}`, "#state[data-state=open]"], ["/diagnose", "html[data-done]"]]) {
      for (const [colorScheme, locale] of [["light", "en"], ["dark", "ru"], ["light", "ar"]]) {
        const page = await open(await context(browser, { colorScheme, locale }), where);
        await page.waitForSelector(ready);
        assert.equal(await page.evaluate(() => document.documentElement.dir), locale === "ar" ? "rtl" : "ltr");
        for (const width of [1440, 768, 360]) {
          await page.setViewportSize({ width, height: 900 });
          const wider = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
          if (wider > 0) found.push(`${where} ${locale} ${width}: ${wider} px too wide`);
        }
        // Into the page past its policy, as a person's extension would be.
        const devtools = await page.context().newCDPSession(page);
        await devtools.send("Runtime.evaluate", { expression: `${AXE};0` });
        const violations = await page.evaluate((tags) => globalThis.axe.run({ runOnly: tags }).then((result) =>
          result.violations.map(({ id, nodes }) => `${id} ${nodes[0].html}`)), WCAG);
        found.push(...violations.map((text) => `${where} ${colorScheme} ${locale}: ${text}`));
        await page.context().close();
      }
      print({ looked: where });
    }
    assert.deepEqual(found, []);
    return { found };
  },

  /// The browser's side of doctor, under both of its names.
  async diagnose(browser) {
    const states = {};
    for (const where of ["/diagnose", "/test-websocket-notifications.html"]) {
      const page = await open(await context(browser), where);
      await page.waitForSelector("html[data-done]");
      states[where] = await page.$$eval("[data-check]", (rows) => rows.map((row) => `${row.dataset.check} ${row.dataset.state}`));
      const report = await page.inputValue("#report");
      assert.deepEqual(states[where].filter((state) => state.endsWith("bad")), [], report);
      for (const check of ["secure", "server", "token", "upgrade", "notifications"]) assert.ok(states[where].includes(`${check} good`), report);
      assert.ok(!/eyJ[\w-]+\./.test(report), "no token is in the report");
    }
    return states;
  },

  /// What is stored, what is live, what is found; by a link that carries a token and loses it.
  async transcript(browser) {
    const page = await open(await context(browser), `/transcript/${session}#token=${token}`);
    assert.equal(new URL(page.url()).hash, "");
    await reads(page, words);
    await page.waitForSelector("#state[data-state=open]");
    await page.fill("#search", "no such words at all");
    await page.waitForFunction(() => document.querySelector("#found").textContent === "0 found");
    await page.fill("#search", "");
    for (const format of ["srt", "vtt", "txt", "json"]) {
      await page.selectOption("#format", format);
      const [asked] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
      assert.ok(fs.statSync(await asked.path()).size > 10, format);
    }
    print({ ready: true });
    await page.waitForSelector(`#log .line:nth-child(${lines + 1})`);
    return { lines: await texts(page, "#log .text") };
  },

  /// An hour of captions, twenty a second, faster than that: the page keeps as much as it shows, and no more.
  async hour(browser) {
    const page = await open(await context(browser), "/transcript");
    const devtools = await page.context().newCDPSession(page);
    const heap = async () => {
      await devtools.send("HeapProfiler.collectGarbage");
      return (await devtools.send("Runtime.getHeapUsage")).usedSize;
    };
    await page.evaluate(async () => {
      const { CaptionView } = await import("/pages/captions.js");
      document.querySelector("#reading").hidden = false;
      window.view = new CaptionView(document.querySelector("#log"), document.querySelector("#live"), { most: 500 });
      window.number = 0;
      window.pour = async (count) => {
        for (const end = window.number + count; window.number < end;) {
          for (let i = 0; i < 100; i++) {
            const utterance = Math.floor(window.number / 10);
            const isFinal = window.number++ % 10 === 9;
            const caption = { utteranceId: `u-${utterance}`, text: `utterance ${utterance} of somebody, said so far ${window.number}`, stable: 9, isFinal,
              speaker: `speaker ${utterance % 5}`, speakerId: `s${utterance % 5}`, ts: 1.7e12 + window.number * 50, language: "en" };
            if (isFinal) window.view.final(caption);
            else window.view.partial(caption);
          }
          await new Promise(requestAnimationFrame);
        }
      };
    });
    const sizes = [];
    for (let part = 0; part < 6; part++) {
      await page.evaluate(() => window.pour(12_000));
      sizes.push(await heap());
    }
    assert.equal(await page.$$eval("#log .line", (lines) => lines.length), 500);
    // The first part fills the log; from there on nothing is added.
    assert.ok(sizes[5] < sizes[0] * 1.25 + 500_000, `bytes: ${sizes}`);
    return { sizes };
  },
};

(async () => {
  const browser = await launch(recording);
  try {
    const shown = await STORIES[story](browser);
    assert.deepEqual(faults, []);
    print({ shown });
  } finally {
    await browser.close();
  }
})().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
