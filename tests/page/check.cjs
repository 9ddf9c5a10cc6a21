// What a learner does with the page, and what has to be seen then. Started by tests/page.sh.
const assert = require("node:assert/strict");
const { chromium } = require("playwright-core");

const { ADDRESS, BROWSER, WORK, SPEECH } = process.env;
const picture = process.argv[2] === "--picture" ? process.argv[3] : null;

async function open(options = {}) {
  const browser = await chromium.launch({
    executablePath: BROWSER,
    args: [
      "--no-sandbox", "--disable-gpu", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
      `--use-file-for-fake-audio-capture=${SPEECH}%noloop`, `--use-file-for-fake-video-capture=${WORK}/camera.mjpeg`,
      "--disable-background-networking", "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
    ],
  });
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, locale: "en-US", ...options });
  const page = await context.newPage();
  const errors = [];
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()); });
  page.on("pageerror", (error) => errors.push(String(error)));
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(ADDRESS) && !/^(blob|data):/.test(url)) errors.push(`foreign request: ${url}`);
  });
  await page.goto(ADDRESS);
  return { browser, page, errors };
}

/** How many dots of a canvas are drawn. */
const inked = (page, id) => page.evaluate((id) => {
  const canvas = document.getElementById(id);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let dots = 0;
  for (let i = 3; i < data.length; i += 4) dots += data[i] > 64;
  return dots;
}, id);

const words = (page) => page.locator("#words span").allTextContents();
const text = (page, place) => page.locator(place).textContent();

async function until(what, ready, patience = 60_000) {
  const begun = Date.now();
  while (!(await ready())) {
    assert.ok(Date.now() - begun < patience, `not seen: ${what}`);
    await new Promise((done) => setTimeout(done, 50));
  }
  return Date.now() - begun;
}

/** What holds of every page once its lesson is told. */
async function told(page, errors, scored = true) {
  await page.waitForSelector("#again:not([hidden])", { timeout: 120_000 });
  assert.ok((await page.locator("#points li:not(.draft)").count()) >= 1, "feedback");
  assert.equal(await page.locator("#points li.draft").count(), 0, "no draft is left");
  assert.equal(await page.locator("#scores .ring").count(), scored ? 1 : 0, "the overall score");
  assert.ok(await page.locator("#alert").isHidden(), await text(page, "#alert"));
  assert.deepEqual(errors, []);
}

async function aScene() {
  const { browser, page, errors } = await open({ colorScheme: "light" });
  await page.click("#start");
  await until("a skeleton while the learner moves", async () => (await inked(page, "overlay")) > 500);
  await until("words while the learner speaks", async () => (await words(page)).length >= 4);
  await until("the pitch curve", async () => (await inked(page, "curve")) > 300);
  await page.waitForFunction(() => document.querySelector("#clock").textContent >= "0:11");
  await page.click("#stop");
  const asked = Date.now();
  await page.waitForSelector("#scores .ring");
  const first = Date.now() - asked;
  await told(page, errors);
  const said = (await words(page)).join(" ");
  assert.match(said, /ask not/i, said);
  // a point's evidence leads to its moment
  const span = page.locator("#points .seek").first();
  const [, from] = (await span.textContent()).match(/([\d.]+) –/);
  await span.click();
  await until("the moment of the point", () => page.evaluate((from) => Math.abs(document.getElementById("video").currentTime - from) < 1.5, Number(from)), 5000);
  assert.equal(await page.locator("#spans button.chosen").count(), 1);
  await until("the skeleton of that moment", async () => (await inked(page, "overlay")) > 500, 5000);
  // by keyboard
  await page.evaluate(() => document.getElementById("video").pause());
  await page.focus("#timeline");
  await page.evaluate(() => { document.getElementById("video").currentTime = 2; });
  await page.keyboard.press("ArrowRight");
  await until("a second later", () => page.evaluate(() => Math.abs(document.getElementById("video").currentTime - 3) < 0.2), 5000);
  if (picture) {
    await page.evaluate(() => { document.getElementById("timeline").scrollLeft = 0; window.scrollTo(0, 0); document.activeElement.blur(); });
    await page.waitForTimeout(900);
    await page.screenshot({ path: picture });
  }
  // once more
  await page.click("#again");
  assert.ok(await page.locator("#setup").isVisible());
  assert.equal((await words(page)).length, 0);
  assert.deepEqual(errors, []);
  console.log(`a scene by camera and microphone: scores ${first} ms after Finish; heard: ${said}`);
  await browser.close();
}

async function aSpeechInKorean() {
  const { browser, page, errors } = await open({ colorScheme: "dark", viewport: { width: 390, height: 844 }, locale: "ko-KR" });
  assert.equal(await text(page, "#start"), "시작");
  await page.locator("input[value=speech]").check({ force: true });
  await page.locator("#llm").uncheck();
  await page.fill("#text", "And so, my fellow Americans");
  await page.setInputFiles("#file", `${WORK}/speech.wav`);
  await until("words", async () => (await words(page)).length >= 3);
  await told(page, errors);
  assert.match(await text(page, "#points"), /[가-힣]/);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than a phone");
  if (picture) await page.screenshot({ path: picture.replace(".png", "-phone.png"), fullPage: true });
  await page.click("#language");
  assert.equal(await page.evaluate(() => document.documentElement.lang), "en");
  assert.equal(await text(page, "#again"), "Once more");
  console.log("a speech from a file, in Korean, on a phone in the dark");
  await browser.close();
}

async function aPictureByKeyboard() {
  const { browser, page, errors } = await open();
  await page.locator("input[value=drama]").focus();
  await page.keyboard.press("ArrowLeft");
  assert.ok(await page.locator("input[value=dance]").isChecked());
  await page.setInputFiles("#file", `${WORK}/still.jpg`);
  await until("a skeleton", async () => (await inked(page, "overlay")) > 300);
  await told(page, errors, false); // nothing moves that could be scored
  console.log("a dance of one picture, by keyboard");
  await browser.close();
}

async function whatGoesWrong() {
  const { browser, page } = await open();
  await page.setInputFiles("#file", { name: "a.mp4", mimeType: "video/mp4", buffer: Buffer.from("no film") });
  await page.waitForSelector("#alert:not([hidden])");
  assert.match(await text(page, "#alert"), /neither play nor show/);
  assert.ok(await page.locator("#start").isEnabled());
  console.log("a file that is none is told");
  await browser.close();
}

(async () => {
  await aPictureByKeyboard();
  await aSpeechInKorean();
  await whatGoesWrong();
  await aScene();
  console.log("the page holds");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
