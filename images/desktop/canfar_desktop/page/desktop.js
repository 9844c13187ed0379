/* The desktop in the window: noVNC, what it says when it cannot, the clipboard, and a small menu. */

import RFB from "../novnc/core/rfb.js";
import KeyTable from "../novnc/core/input/keysym.js";

const element = (id) => document.getElementById(id);
const screen = element("screen");
const panel = element("panel");
const tab = element("tab");
const clipboard = element("clipboard");

// The connection. It comes back by itself: after a lost network, and after a pause of whatever is on the way.

const FIRST_DELAY = 500; // milliseconds
const LONGEST_DELAY = 10_000;
const HEALTHY = 5_000; // after that long, a connection that is lost is one that had worked
let rfb = null;
let delay = FIRST_DELAY;
let timer = 0;

function say(sentence, canTry = true) {
  element("sentence").textContent = sentence;
  element("again").hidden = !canTry;
  element("notice").hidden = false;
}

function connect() {
  clearTimeout(timer);
  if (rfb) return;
  const address = new URL("./socket", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  let since = Infinity;
  const mine = (rfb = new RFB(screen, address.href, { wsProtocols: ["binary"] }));
  mine.scaleViewport = true; // until the desktop has the window's size, and where it cannot take it
  mine.resizeSession = true;
  mine.background = "transparent";
  mine.addEventListener("connect", () => {
    since = Date.now();
    element("notice").hidden = true;
    document.documentElement.dataset.state = "connected";
    if (panel.hidden) mine.focus();
    offerClipboard();
  });
  mine.addEventListener("clipboard", (event) => received(event.detail.text));
  mine.addEventListener("disconnect", async () => {
    rfb = null;
    document.documentElement.dataset.state = "disconnected";
    if (Date.now() - since > HEALTHY) delay = FIRST_DELAY;
    say(await reason());
    timer = setTimeout(connect, delay);
    delay = Math.min(2 * delay, LONGEST_DELAY);
  });
}

/** Why there is no connection, in a sentence. */
async function reason() {
  let answer;
  try {
    answer = await fetch("./", { method: "HEAD", cache: "no-store", redirect: "manual" });
  } catch {
    return "The network connection to your desktop is lost. It goes on running, and this page connects again by itself.";
  }
  if (answer.ok) return "The connection to your desktop was cut. This page connects again by itself.";
  if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403)
    return "This page may not see your desktop any more. Reload it to sign in again.";
  return "Your desktop does not answer. If you logged out of it, it has ended; your page of sessions shows whether it runs.";
}

function now() {
  delay = FIRST_DELAY;
  connect();
}

element("again").addEventListener("click", now);
window.addEventListener("online", now);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && now());

// The clipboard: by itself where the browser lets the page, and always through the menu.

let known = ""; // the text that both sides have

function received(text) {
  known = text;
  clipboard.value = text;
  navigator.clipboard?.writeText(text).catch(() => {}); // without leave, it is in the menu
}

function send(text) {
  if (!rfb || text === known) return;
  known = text;
  rfb.clipboardPasteFrom(text);
}

async function mayRead() {
  try {
    return (await navigator.permissions.query({ name: "clipboard-read" })).state;
  } catch {
    return "denied"; // the browser would ask at each reading
  }
}

async function readLocal() {
  try {
    const text = await navigator.clipboard.readText();
    if (text) {
      clipboard.value = text;
      send(text);
    }
  } catch {
    // Not in focus, or not allowed: the menu is there.
  }
}

async function offerClipboard() {
  const state = navigator.clipboard?.readText ? await mayRead() : "denied";
  element("share").hidden = state !== "prompt";
  if (state === "granted") await readLocal();
}

clipboard.addEventListener("input", () => send(clipboard.value));
window.addEventListener("focus", offerClipboard);
element("share").addEventListener("click", async () => {
  await readLocal();
  await offerClipboard();
});

// The menu

function open(shown) {
  panel.hidden = !shown;
  tab.setAttribute("aria-expanded", String(shown));
  if (shown) clipboard.focus();
  else rfb?.focus();
}

tab.addEventListener("click", () => open(panel.hidden));
screen.addEventListener("pointerdown", () => panel.hidden || open(false), { capture: true });
panel.addEventListener("keydown", (event) => event.key === "Escape" && open(false));

// The desktop takes all keys but these, so that people without a mouse can leave it.
window.addEventListener(
  "keydown",
  (event) => {
    if (!(event.code === "KeyM" && event.ctrlKey && event.altKey && event.shiftKey)) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    for (const name of ["Shift_L", "Alt_L", "Control_L"]) rfb?.sendKey(KeyTable[`XK_${name}`], null, false);
    open(panel.hidden);
  },
  { capture: true },
);

for (const button of document.querySelectorAll("[data-keys]")) {
  button.addEventListener("click", () => {
    const symbols = button.dataset.keys.split(" ").map((name) => KeyTable[`XK_${name}`]);
    for (const symbol of symbols) rfb?.sendKey(symbol, null, true);
    for (const symbol of symbols.reverse()) rfb?.sendKey(symbol, null, false);
    rfb?.focus();
  });
}

const full = element("full");
full.hidden = !document.fullscreenEnabled;
full.addEventListener("click", async () => {
  if (document.fullscreenElement) return document.exitFullscreen();
  await document.documentElement.requestFullscreen();
  // Where the browser can, keys such as Escape and Alt+Tab go to the desktop, too.
  await navigator.keyboard?.lock?.().catch(() => {});
  open(false);
});
document.addEventListener("fullscreenchange", () => {
  full.setAttribute("aria-pressed", String(Boolean(document.fullscreenElement)));
});

connect();
