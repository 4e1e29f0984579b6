// The scripts of the console. Every page works without them; they show sooner what a reload would show.

import { streamActivity } from "./activity.js";
import { offerCopy } from "./copy.js";
import { watchFilter } from "./filter.js";
import { keepLive, retry } from "./live.js";
import { previewName } from "./names.js";
import { keepPicture } from "./server_form.js";
import { forgetValues } from "./values.js";

document.querySelectorAll("form[data-filter]").forEach(watchFilter);
document.querySelectorAll("[data-live]").forEach(keepLive);
document.querySelectorAll("[data-stream]").forEach(streamActivity);
document.querySelectorAll("button[data-copy]").forEach(offerCopy);
document.querySelectorAll("form[data-picture]").forEach(keepPicture);
document.querySelectorAll("input[data-lookup]").forEach(previewName);
document.querySelectorAll("form[data-holds-value]").forEach(forgetValues);
if (document.body.hasAttribute("data-retries")) retry();
