// A person who is signed in opens pages of other sites, which do all that a page can do to the console. Pages on another port of the
// same host are the worst: browsers send the cookie along with their requests.
import assert from "node:assert/strict";
import { origin, scenario, shows, signIn } from "./browser.mjs";

// Chromium keeps other sites from asking a server on loopback for anything but a page. Other browsers do not.
const FLAGS = ["--disable-features=LocalNetworkAccessChecks"];
const SITES = ["http://attacker.example", "http://127.0.0.1:9"];

const form = (change, more = "") =>
  `<form id=f method=post action="${change}" ${more}><input name=name value=stolen><input name=csrf value=x></form><script>f.submit()</script>`;

// Each attack gets a function that adds its name to a path of the console, so that its requests are known.
const ATTACKS = {
  form: (to) => form(to("/workspaces")),
  "text-form": (to) => form(to("/workspaces"), 'enctype="text/plain"'),
  "file-form": (to) => form(to("/workspaces"), 'enctype="multipart/form-data"'),
  fetch: (to) => `<script>fetch("${to("/workspaces")}", {method: "POST", credentials: "include", mode: "no-cors",
    headers: {"content-type": "application/x-www-form-urlencoded"}, body: "name=stolen&csrf=x"})</script>`,
  beacon: (to) =>
    `<script>navigator.sendBeacon("${to("/workspaces")}", new URLSearchParams({name: "stolen", csrf: "x"}))</script>`,
  // Would read the token of a form, and use it.
  reader: (to) => `<script>fetch("${to("/workspaces/new")}", {credentials: "include"}).then((answer) => answer.text())
    .then((page) => { document.title = page; })</script>`,
  frame: (to) =>
    `<iframe id=f src="${to("/")}"></iframe><script>f.onload = () => { document.title = f.contentDocument.body.innerHTML; }</script>`,
  image: (to) => `<img src="${to("/w/shop/secrets")}">`,
  script: (to) => `<script src="${to("/status/live")}"></script>`,
  window: (to) => `<script>const opened = open("${to("/")}");
    setTimeout(() => { document.title = opened.document.body.innerHTML; }, 300)</script>`,
};

async function attack(context, site, name, body) {
  const page = await context.newPage();
  await page.route(`${site}/**`, (route) => route.fulfill({ contentType: "text/html", body }));
  await page.goto(`${site}/${name}`);
  await page.waitForLoadState("networkidle");
  const title = await page.title().catch(() => "");
  assert.ok(!/csrf|GITHUB_TOKEN|shop/.test(title), `${name} of ${site} read a page`);
}

await scenario(async (browser) => {
  const { context, page } = await signIn(browser);
  const nameOf = (url) => new URL(url).searchParams.get("attack");
  const made = new Set();
  const statuses = new Map();
  context.on("request", (request) => made.add(nameOf(request.url())));
  // Chromium shows no status of an answer that the page may not have.
  context.on("response", (answer) => statuses.set(nameOf(answer.url()), answer.status()));
  const running = SITES.flatMap((site, index) =>
    Object.entries(ATTACKS).map(([name, body]) => {
      const to = (path) => `${origin}${path}?attack=${name}-${index}`;
      return attack(context, site, name, `<!doctype html><title>attack</title><body>${body(to)}`);
    }),
  );
  await Promise.all(running);
  for (const requests of [made, statuses]) requests.delete(null);
  assert.equal(made.size, running.length, `made: ${[...made]}`);
  // Of these attacks the window shows the answer, so Chromium shows its status.
  const shown = SITES.flatMap((site, index) => ["form", "text-form", "file-form"].map((name) => `${name}-${index}`));
  assert.deepEqual(shown.filter((name) => !statuses.has(name)), [], `answered: ${[...statuses.keys()]}`);
  for (const [name, status] of statuses) assert.ok([403, 415].includes(status), `${name} was answered with ${status}`);
  // The console goes on for the person.
  await page.goto(origin);
  await shows(page, "shop");
  assert.equal(await page.getByText("stolen").count(), 0);
}, FLAGS);
