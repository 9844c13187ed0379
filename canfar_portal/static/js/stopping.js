/** A session that stops: loads the page again once it has, which never starts anything. */

import { sessions, stateOf, watch } from "./hub.js";

const page = /** @type {HTMLElement} */ (document.getElementById("stopping"));

watch(async () => {
  const servers = await sessions(page.dataset.user ?? "");
  if (stateOf(servers[page.dataset.server ?? ""]) === "stopping") return false;
  location.reload();
  return true;
});
