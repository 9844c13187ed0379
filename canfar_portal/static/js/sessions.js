/** "Your sessions": stops and deletes, and follows what starts or stops without a reload. */

import { sessions, stateOf, stop, watch } from "./hub.js";

const page = /** @type {HTMLElement} */ (document.getElementById("sessions"));
const user = page.dataset.user ?? "";
const error = /** @type {HTMLElement} */ (document.getElementById("sessions-error"));
const status = /** @type {HTMLElement} */ (document.getElementById("sessions-status"));
const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("sessions-ask"));

let watching = false;

/** @returns {HTMLElement[]} */
const rows = () => [...page.querySelectorAll(".cf-session")];

/** @param {HTMLElement} row @param {string} state */
function show(row, state) {
  if (row.dataset.state === state) return;
  if (state === "stopped" && "app" in row.dataset) return leave(row, "ended");
  row.dataset.state = state;
  const word = state[0].toUpperCase() + state.slice(1);
  /** @type {HTMLElement} */ (row.querySelector("[data-slot=state]")).textContent = word;
  status.textContent = `${row.dataset.title}: ${word}`;
  if (state === "stopped") row.querySelector(".cf-when")?.remove();
  for (const button of row.querySelectorAll("button")) button.disabled = false;
}

/** Follow what is on its way until nothing is. */
function follow() {
  if (watching) return;
  watching = true;
  watch(async () => {
    await refresh();
    watching = rows().some((row) => ["starting", "stopping"].includes(row.dataset.state ?? ""));
    return !watching;
  });
}

async function refresh() {
  const servers = await sessions(user);
  for (const row of rows()) show(row, stateOf(servers[row.dataset.serverName ?? ""]));
}

/**
 * @param {string} title @param {string} text @param {string} yes
 * @returns {Promise<boolean>}
 */
function ask(title, text, yes) {
  /** @type {HTMLElement} */ (document.getElementById("sessions-ask-title")).textContent = title;
  /** @type {HTMLElement} */ (document.getElementById("sessions-ask-text")).textContent = text;
  /** @type {HTMLElement} */ (document.getElementById("sessions-ask-yes")).textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

/** @param {HTMLElement} row @param {boolean} remove */
async function end(row, remove) {
  const title = `“${row.dataset.title}”`;
  const sure = remove
    ? await ask(`Delete ${title}?`, "The session leaves this list. Your files stay.", "Delete")
    : await ask(`Stop ${title}?`, "Programs that run in it end. Your files stay.", "Stop");
  if (!sure) return;
  error.hidden = true;
  for (const button of row.querySelectorAll("button")) button.disabled = true;
  const before = row.dataset.state ?? "stopped";
  if (!remove) show(row, "stopping");
  try {
    const response = await stop(user, row.dataset.serverName ?? "", remove);
    if (remove) leave(row);
    else if (response.status === 202) follow();
    else await refresh(); // with a desktop, the applications on it have ended
  } catch (problem) {
    show(row, before);
    for (const button of row.querySelectorAll("button")) button.disabled = false;
    error.textContent = problem instanceof Error ? problem.message : String(problem);
    error.hidden = false;
  }
}

/** @param {HTMLElement} row @param {string} [how] */
function leave(row, how = "deleted") {
  const next = /** @type {HTMLElement | null} */ (row.nextElementSibling ?? row.previousElementSibling);
  row.remove();
  status.textContent = `${row.dataset.title}: ${how}`;
  if (!next) location.reload();
  else {
    next.tabIndex = -1;
    next.focus();
  }
}

/** @param {Date} date */
function ago(date) {
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  const minutes = Math.round((date.getTime() - Date.now()) / 60000);
  if (Math.abs(minutes) < 60) return minutes === 0 ? "just now" : words.format(minutes, "minute");
  if (Math.abs(minutes) < 60 * 24) return words.format(Math.round(minutes / 60), "hour");
  return words.format(Math.round(minutes / 60 / 24), "day");
}

for (const row of rows()) {
  row.querySelector(".stop-server")?.addEventListener("click", () => end(row, false));
  row.querySelector(".delete-server")?.addEventListener("click", () => end(row, true));
}
for (const time of page.querySelectorAll("time")) {
  const date = new Date(time.dateTime);
  if (Number.isNaN(date.getTime())) continue;
  time.title = date.toLocaleString();
  const started = time.parentElement?.textContent?.startsWith("since");
  if (started) time.parentElement?.firstChild?.replaceWith("started ");
  time.textContent = ago(date);
}
if (rows().some((row) => ["starting", "stopping"].includes(row.dataset.state ?? ""))) follow();
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});
