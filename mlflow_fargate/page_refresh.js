// Refreshes <main> in place: without a jump, and not while text is selected. Lines at the end of a log stay in view.
"use strict";
const seconds = Number(document.currentScript.dataset.seconds);
const atEnd = () => innerHeight + scrollY >= document.body.scrollHeight - 40;
const follow = () => document.querySelector("#newest")?.scrollIntoView();
addEventListener("DOMContentLoaded", follow);
setInterval(async () => {
  const status = document.querySelector("#refresh");
  if (document.hidden || !getSelection().isCollapsed) return;
  try {
    const response = await fetch(location.origin + location.pathname, { cache: "no-store" });
    if (!response.ok) throw new Error(response.status);
    const next = new DOMParser().parseFromString(await response.text(), "text/html");
    if (!next.querySelector("main")) throw new Error("not this page");
    const main = document.querySelector("main"), focused = document.activeElement?.getAttribute("href");
    if (!getSelection().isCollapsed) return;
    const followed = atEnd();
    document.title = next.title;
    main.replaceWith(next.querySelector("main"));
    if (followed) follow();
    if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  } catch { if (status) status.textContent = "No response: this page may be out of date."; }
}, seconds * 1000);
