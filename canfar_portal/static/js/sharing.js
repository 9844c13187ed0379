/** "Share": who has access to a running session, invitations, and taking both back. */

import { request } from "./hub.js";

const page = /** @type {HTMLElement} */ (document.getElementById("sessions"));
const user = page.dataset.user ?? "";
const part = (/** @type {string} */ name) => /** @type {HTMLElement} */ (document.getElementById(`share-${name}`));
const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("share"));
const link = /** @type {HTMLInputElement} */ (part("link"));
const DAY = 86400;

let server = "";

/** Do something of the dialog; a failure is shown in it. @param {() => Promise<void>} work */
async function attempt(work) {
  part("error").hidden = true;
  try {
    await work();
  } catch (problem) {
    part("error").textContent = problem instanceof Error ? problem.message : String(problem);
    part("error").hidden = false;
  }
}

/** @param {string} words */
function person(words, revoke) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = words;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-sm btn-outline-danger";
  button.textContent = "Remove";
  button.setAttribute("aria-label", `Remove ${words}`);
  button.addEventListener("click", () => attempt(async () => {
    await request("PATCH", ["shares", user, server], revoke);
    await draw();
    part("status").textContent = `${words} has no access any more.`;
  }));
  item.append(name, button);
  return item;
}

async function draw() {
  const [shares, codes] = await Promise.all(["shares", "share-codes"].map(async (what) =>
    (await (await request("GET", [what, user, server])).json()).items));
  part("people").replaceChildren(...shares.map((share) => share.user
    ? person(share.user.name, { user: share.user.name })
    : person(share.group.name, { group: share.group.name })));
  part("end").hidden = shares.length + codes.length === 0;
}

async function invite() {
  const made = await (await request("POST", ["share-codes", user, server], { expires_in: DAY })).json();
  link.value = new URL(made.accept_url, location.href).href;
  part("invitation").hidden = false;
  link.focus();
  link.select();
  const copied = await navigator.clipboard?.writeText(link.value).then(() => true, () => false);
  part("status").textContent = copied ? "The invitation is copied." : "Copy the invitation.";
  await draw();
}

async function endAll() {
  await Promise.all(["shares", "share-codes"].map((what) => request("DELETE", [what, user, server])));
  part("invitation").hidden = true;
  await draw();
  part("status").textContent = "Nobody else has access any more.";
}

/** @param {HTMLElement} row */
function open(row) {
  server = row.dataset.serverName ?? "";
  part("title").textContent = `Share “${row.dataset.title}”`;
  part("invitation").hidden = true;
  part("people").replaceChildren();
  dialog.showModal();
  attempt(draw);
}

for (const row of /** @type {NodeListOf<HTMLElement>} */ (page.querySelectorAll(".cf-session"))) {
  row.querySelector(".share-server")?.addEventListener("click", () => open(row));
}
part("invite").addEventListener("click", () => attempt(invite));
part("end").addEventListener("click", () => attempt(endAll));
