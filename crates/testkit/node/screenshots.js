// The screenshots of docs/screenshots, of the pages as they are, at a server that `parley-up --chaos` runs.
// node screenshots.js FOLDER
const { execFileSync, spawn } = require("node:child_process");
const { once } = require("node:events");
const fs = require("node:fs");
const path = require("node:path");
const { FFMPEG, PARLEY, RECORDING, context, launch, open, sleep } = require("./browser.js");

const { PARLEY_URL } = process.env;
const folder = path.resolve(process.argv[2]);
const COLOURS = ["light", "dark"];
const WIDE = { width: 1280, height: 860 };
const TELEPHONE = { width: 360, height: 740 };

/// Keeps a picture, of 256 colours as pages have, laid over another if there is one.
const keep = (name, picture, below = []) => {
  const palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none";
  const filter = below.length ? `[1][0]overlay,${palette}` : palette;
  execFileSync(FFMPEG, ["-v", "error", "-y", "-f", "image2pipe", "-c:v", "png", "-i", "pipe:0", ...below, "-filter_complex", filter, "-frames:v", "1",
    path.join(folder, name)], { input: picture });
  console.log(name);
};

/// A look at a page in both colours, once it is worth looking at.
const looks = async (browser, name, where, ready, viewport = WIDE) => {
  for (const colorScheme of COLOURS) {
    const page = await open(await context(browser, { colorScheme, viewport }), PARLEY_URL, where(colorScheme));
    await ready(page);
    keep(`${name}-${colorScheme}.png`, await page.screenshot());
    await page.context().close();
  }
};

/// The overlay as a mixer lays it over a picture of every colour.
const overVideo = async (browser) => {
  const session = "overlay";
  const page = await open(await context(browser, { viewport: { width: 960, height: 540 } }), PARLEY_URL, `/overlay/${session}?size=40`);
  await page.waitForSelector("html[data-state=open]");
  const speaker = spawn(PARLEY, ["stream", RECORDING, "--session", session, "--realtime"], { stdio: "ignore" });
  await page.waitForFunction(() => document.querySelector("#captions").textContent.includes("foolishness"));
  const picture = await page.screenshot({ omitBackground: true });
  speaker.kill();
  await once(speaker, "exit");
  keep("overlay-video.png", picture, ["-f", "lavfi", "-i", "testsrc2=size=960x540:rate=1:duration=1"]);
  await page.context().close();
};

(async () => {
  fs.mkdirSync(folder, { recursive: true });
  const browser = await launch(RECORDING);
  const speak = async (page) => {
    await page.click("#start");
    await page.waitForFunction(() => document.querySelectorAll("#log .text").length >= 3);
    await page.waitForSelector("#live .partial");
    await sleep(1_500);
    await page.waitForSelector("#live .partial");
  };
  await looks(browser, "console", (colour) => `/console?session=${colour}`, speak);
  await looks(browser, "console-360", (colour) => `/console?session=small-${colour}`, speak, TELEPHONE);
  await looks(browser, "transcript", (colour) => `/transcript/${colour}`, (page) => page.waitForFunction(() => document.querySelectorAll("#log .text").length >= 3));
  await looks(browser, "diagnose", () => "/diagnose", (page) => page.waitForSelector("html[data-done]"));
  await looks(browser, "overlay", () => "/overlay", (page) => page.waitForSelector("#address"));
  await overVideo(browser);
  await browser.close();
})().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
