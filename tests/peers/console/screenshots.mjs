// Makes the pictures of the README: each page in light and dark, in the folder that CONSOLE_TEST names.
import { config, newWindow, origin, scenario } from "./browser.mjs";

// Names of pictures, and what they show. A page that is added needs one line.
const PICTURES = {
  secrets: "/w/payments/secrets",
  servers: "/w/payments/servers",
  map: "/w/payments/map",
  activity: "/w/payments/activity",
};
// The console counts calls while a page of activity is open.
const WATCHED_MS = 180_000;
const SIZE = { width: 1200, height: 750 };

await scenario(async (browser) => {
  let state;
  for (const colorScheme of ["light", "dark"]) {
    const { context, page } = await newWindow(browser, { colorScheme, viewport: SIZE, storageState: state });
    if (!state) {
      await page.goto(config.link);
      await page.waitForURL(`${origin}/`);
      state = await context.storageState();
      await page.goto(origin + PICTURES.activity);
      await page.waitForTimeout(WATCHED_MS);
    }
    for (const [name, path] of Object.entries(PICTURES)) {
      await page.goto(origin + path);
      await page.evaluate(() => document.activeElement?.blur());
      await page.screenshot({ path: `${config.folder}/console-${name}-${colorScheme}.png` });
    }
    await context.close();
  }
});
