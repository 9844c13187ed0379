/** The hub's API for the pages: same-origin requests with the token against forged requests. */

/** @typedef {{ready: boolean, stopped: boolean, pending: string | null, started: string | null}} Server */

const data = () => /** @type {{base_url: string, xsrf_token: string}} */ (window.jhdata);

/**
 * @param {string} method
 * @param {string[]} path steps below /hub/api, not yet escaped
 * @param {object} [body]
 * @returns {Promise<Response>}
 */
export async function request(method, path, body) {
  const url = `${data().base_url}api/${path.map(encodeURIComponent).join("/")}`;
  const response = await fetch(url, {
    method,
    headers: { "X-Xsrftoken": data().xsrf_token, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Error(await reason(response));
  return response;
}

/** @param {Response} response */
async function reason(response) {
  const told = await response.json().catch(() => ({}));
  return typeof told.message === "string" && told.message ? told.message : `The hub answered ${response.status}.`;
}

/**
 * Stop a session, and delete it when asked to.
 * @param {string} user @param {string} server @param {boolean} [remove]
 */
export function stop(user, server, remove = false) {
  const path = server ? ["users", user, "servers", server] : ["users", user, "server"];
  return request("DELETE", path, remove ? { remove: true } : undefined);
}

/**
 * The user's sessions that are not stopped, by name.
 * @param {string} user
 * @returns {Promise<Record<string, Server>>}
 */
export async function sessions(user) {
  return (await (await request("GET", ["users", user])).json()).servers ?? {};
}

/** @param {Server | undefined} server */
export function stateOf(server) {
  if (!server || server.stopped) return "stopped";
  if (server.pending === "stop") return "stopping";
  return server.pending ? "starting" : server.ready ? "running" : "stopped";
}

/**
 * Ask again and again, while the page is visible, until `done` answers true.
 * @param {() => Promise<boolean>} done
 * @param {number} [interval] milliseconds
 */
export function watch(done, interval = 1500) {
  const round = async () => {
    if (!document.hidden && (await done().catch(() => false))) return;
    setTimeout(round, interval);
  };
  setTimeout(round, interval);
}
