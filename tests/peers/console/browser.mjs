// Chromium, signed in with the link of a console, and watched: a page may cause no error, break no Content-Security-Policy, and ask
// no other origin for anything. The test gives the link and other data in CONSOLE_TEST, as JSON.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

// The packages are where PEERS_NODE_MODULES says, not beside this file.
export const require = createRequire(`${process.env.PEERS_NODE_MODULES}/`);
const { chromium } = require("playwright-core");

export const config = JSON.parse(process.env.CONSOLE_TEST);
export const origin = new URL(config.link).origin;

const FLAGS = ["--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
// No step waits longer. A test machine may be busy.
const PATIENCE_MS = 15_000;

// Runs a scenario with a browser of its own.
export async function scenario(steps, flags = []) {
  const browser = await chromium.launch({ executablePath: process.env.PEERS_CHROMIUM, args: [...FLAGS, ...flags] });
  try {
    await steps(browser);
  } catch (error) {
    await describe(browser);
    throw error;
  } finally {
    await browser.close();
  }
}

// Prints what each page shows when a scenario fails. The texts of fields are no part of it.
async function describe(browser) {
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    const text = await page.locator("body").innerText({ timeout: 1_000 }).catch(String);
    console.error(`--- ${page.url()}\n${text.slice(0, 2_000)}`);
  }
}

// Opens a window of a person who has not signed in.
export async function newWindow(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  return { context, watch: new Watch(context), page: await context.newPage() };
}

// Opens a window, and signs in with the link.
export async function signIn(browser, options = {}) {
  const window = await newWindow(browser, options);
  await window.page.goto(config.link);
  await window.page.waitForURL(`${origin}/`);
  return window;
}

// What happened in a window that a person does not see.
export class Watch {
  // Errors in the console, among them breaches of the Content-Security-Policy.
  errors = [];
  foreign = [];
  requests = [];
  #answers = [];

  constructor(context) {
    context.on("request", (request) => {
      this.requests.push(request);
      if (new URL(request.url()).origin !== origin) this.foreign.push(request.url());
    });
    context.on("response", (answer) => {
      const text = textOf(answer);
      // The last answers may end with their page. Whoever asks for the answers gets the error all the same.
      text.catch(() => {});
      this.#answers.push(text);
    });
    // The status of an answer is no error of a page: forms with a mistake are answered with 422.
    context.on("console", (message) => {
      const isStatus = message.text().startsWith("Failed to load resource");
      if (message.type() === "error" && !isStatus) this.errors.push(message.text());
    });
    context.on("weberror", (error) => this.errors.push(String(error.error())));
  }

  // Heads and bodies of all answers.
  answers() {
    return Promise.all(this.#answers);
  }

  check() {
    assert.deepEqual(this.errors, [], "errors in the console");
    assert.deepEqual(this.foreign, [], "requests to other origins");
  }
}

async function textOf(answer) {
  // A redirect has no body, and Chromium has forgotten the body of a page that was left at once.
  const isRedirect = answer.status() >= 300 && answer.status() < 400;
  const body = isRedirect ? "" : await answer.text().catch(() => undefined);
  const head = JSON.stringify(await answer.allHeaders());
  return { url: answer.url(), request: answer.request(), isRead: body !== undefined, text: `${head}\n${body ?? ""}` };
}

// Asserts that the page shows a text to a person.
export async function shows(page, text) {
  await page.getByText(text).first().waitFor();
}

export async function showsNot(page, text) {
  assert.equal(await page.getByText(text).filter({ visible: true }).count(), 0, `the page shows ${text}`);
}

// Tells the test that a step is done, and waits until the test has done its own.
export async function handOver(what) {
  console.log(what);
  await new Promise((resolve) => process.stdin.resume().once("data", resolve));
  process.stdin.pause();
}
