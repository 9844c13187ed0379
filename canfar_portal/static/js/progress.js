/** The start of a session: follows the hub's events, opens it when ready, says why when it failed. */

import { stop } from "./hub.js";

const page = /** @type {HTMLElement} */ (document.getElementById("pending"));
const bar = /** @type {HTMLElement} */ (document.getElementById("progress-bar"));
const message = /** @type {HTMLElement} */ (document.getElementById("progress-message"));
const log = /** @type {HTMLElement} */ (document.getElementById("progress-log"));
const failure = /** @type {HTMLElement} */ (document.getElementById("progress-failure"));
const cancel = /** @type {HTMLButtonElement} */ (document.getElementById("stop-server-btn"));

const TAGS = new Set(["A", "B", "BR", "CODE", "DIV", "EM", "I", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "UL"]);

/**
 * The nodes of an HTML message, with the plain ones of its elements and nothing that runs.
 * @param {string} html
 * @returns {Node[]}
 */
function plainNodes(html) {
  const copy = (/** @type {Node} */ node) => {
    if (node.nodeType === Node.TEXT_NODE) return [document.createTextNode(node.textContent ?? "")];
    if (!(node instanceof Element) || ["SCRIPT", "STYLE", "TEMPLATE"].includes(node.tagName)) return [];
    const inside = [...node.childNodes].flatMap(copy);
    if (!TAGS.has(node.tagName)) return inside;
    const clean = document.createElement(node.tagName);
    clean.append(...inside);
    const target = node.getAttribute("href");
    if (target !== null && /^https?:$/.test(new URL(target, location.href).protocol)) clean.setAttribute("href", target);
    return [clean];
  };
  return [...new DOMParser().parseFromString(html, "text/html").body.childNodes].flatMap(copy);
}

/** The sentence of a failure and its log lines. @param {string} text */
function split(text) {
  const bare = text.replace(/^Spawn failed: /, "").trim();
  // str() of an error of the hub puts its class before the sentence.
  const inside = /^HTTP \d{3}: [^(]*\(([\s\S]*)\)$/.exec(bare) ?? /^\d{3} SpawnException\([^)]*\): ([\s\S]*)$/.exec(bare);
  const [sentence, ...lines] = (inside ? inside[1] : bare).split("\n");
  return { sentence: sentence.trim(), lines: lines.join("\n").replace(/^\n+|\s+$/g, "") };
}

/** @param {{message?: string, html_message?: string}} event */
function fail(event) {
  const text = event.message ?? "";
  const { sentence, lines } = split(text);
  const line = document.createElement("p");
  if (event.html_message && !lines) line.append(...plainNodes(event.html_message));
  else line.textContent = sentence === "Spawn failed" || !sentence ? "It stopped before it was ready." : sentence;
  failure.replaceChildren(line);
  if (lines) {
    const pre = document.createElement("pre");
    pre.className = "cf-log";
    pre.tabIndex = 0;
    pre.setAttribute("aria-label", "Last log lines");
    pre.textContent = lines;
    failure.append(pre);
    pre.scrollTop = pre.scrollHeight;
  }
  const title = /** @type {HTMLElement} */ (document.getElementById("pending-title"));
  title.textContent = (title.textContent ?? "").trim().replace(/^Starting (.*)$/s, (_, name) =>
    `${name === "your session" ? "Your session" : name} did not start`);
  document.title = document.title.replace("Starting", "Not started");
  page.dataset.state = "failed";
  for (const pre of failure.querySelectorAll("pre")) pre.scrollTop = pre.scrollHeight;
}

/** @param {{progress?: number, message?: string, html_message?: string}} event */
function tell(event) {
  if (typeof event.progress === "number") {
    bar.setAttribute("aria-valuenow", String(event.progress));
    /** @type {HTMLElement} */ (bar.firstElementChild).style.width = `${Math.max(3, Math.min(100, event.progress))}%`;
  }
  const nodes = () =>
    event.html_message !== undefined ? plainNodes(event.html_message) : [document.createTextNode(event.message ?? "")];
  if (event.html_message === undefined && !event.message) return;
  message.replaceChildren(...nodes());
  const item = document.createElement("li");
  item.append(...nodes());
  log.append(item);
}

function follow() {
  const source = new EventSource(page.dataset.progress ?? "");
  source.addEventListener("message", (raw) => {
    const event = JSON.parse(raw.data);
    if (event.failed) {
      source.close();
      fail(event);
      return;
    }
    tell(event);
    if (event.ready) {
      source.close();
      // With `next` the hub knows the way: it answers this same address with it.
      if (new URLSearchParams(location.search).has("next")) location.reload();
      else location.replace(event.url);
    }
  });
  source.addEventListener("error", () => {
    // Closed for good: the hub's page for this address knows what became of the session.
    if (source.readyState === EventSource.CLOSED && page.dataset.state === "starting" && !cancel.disabled) {
      message.textContent = "The connection to the hub was lost. Load this page again to see how it goes.";
    }
  });
  return source;
}

const source = follow();
cancel.addEventListener("click", async () => {
  cancel.disabled = true;
  cancel.textContent = "Cancelling…";
  source.close();
  try {
    await stop(page.dataset.user ?? "", page.dataset.server ?? "");
    location.assign(`${window.jhdata.base_url}home`);
  } catch (problem) {
    fail({ message: problem instanceof Error ? problem.message : String(problem) });
  }
});
