// The scripts of the console. Every page works without them; they show sooner what a reload would show.

import { streamActivity } from "./activity.js";
import { offerCopy } from "./copy.js";
import { watchFilter } from "./filter.js";
import { keepLive, retry } from "./live.js";
import { previewName } from "./names.js";
import { checkOrigins, chooseDate } from "./secret_form.js";
import { keepPicture, showInExample } from "./server_form.js";
import { forgetValues } from "./values.js";

document.querySelectorAll("form[data-filter]").forEach(watchFilter);
document.querySelectorAll("[data-live]").forEach(keepLive);
document.querySelectorAll("[data-stream]").forEach(streamActivity);
document.querySelectorAll("button[data-copy]").forEach(offerCopy);
document.querySelectorAll("form[data-picture]").forEach(keepPicture);
document.querySelectorAll("input[data-lookup]").forEach(previewName);
document.querySelectorAll("form[data-holds-value]").forEach(forgetValues);
document.querySelectorAll("[data-shows]").forEach(showInExample);
document.querySelectorAll("textarea[data-origins]").forEach(checkOrigins);
document.querySelectorAll("input[data-expiry-day]").forEach(chooseDate);
// On a narrow screen the current tab may be beyond the edge of the list, which scrolls.
document.querySelector(".tabs [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
if (document.body.hasAttribute("data-retries")) retry();
