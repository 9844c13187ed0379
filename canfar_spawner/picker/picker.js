/**
 * The session picker: draws the offer, keeps the choices consistent, and lets the browser post the form.
 *
 * What the offer says is text: it reaches the page through textContent and attributes that hold no code.
 * A link may fill the form; only the user starts something.
 */

/** @typedef {{value: number, refusal: string}} Choice */
/** @typedef {{kind: string, title: string, description: string, refusal: string}} Kind */
/**
 * @typedef {{profile: string, kinds: string[], title: string, description: string, refusal: string, opens: string[],
 *   images: string[], cores: Choice[], memory: Choice[], gpus: Choice[]}} Profile
 */
/** @typedef {"cores" | "memory" | "gpus"} Resource */
/**
 * @typedef {{user: string, static: string, refusal: string, sessions: {active: number, limit: number},
 *   kinds: Kind[], profiles: Profile[], request: Record<string, string | number | null>,
 *   on_nodes?: Record<string, {nodes: number, of: number}>}} Offer
 */

const FIELDS = ["profile", "kind", "image", "cores", "memory", "gpus", "name", "open"];
const FILTER_FROM = 9;
const SVG = "http://www.w3.org/2000/svg";

/** Two decimals will do for people; what is sent is exact. @param {number} n */
const gigabytes = (n) => `${Number(n.toFixed(2))} GB`;

/** @type {Record<Resource, {legend: string, label: (n: number) => string, words: (n: number) => string}>} */
const RESOURCES = {
  cores: { legend: "CPU cores", label: String, words: (n) => `${n} ${n === 1 ? "core" : "cores"}` },
  memory: { legend: "Memory", label: gigabytes, words: gigabytes },
  gpus: { legend: "GPUs", label: (n) => (n ? String(n) : "None"), words: (n) => `${n} ${n === 1 ? "GPU" : "GPUs"}` },
};

/** Line drawings on a 24 unit grid, one a kind. */
const ICONS = {
  // a ring-bound book with a prompt
  notebook: ["M6 3.5h11a1.5 1.5 0 0 1 1.5 1.5v14a1.5 1.5 0 0 1-1.5 1.5H6z", "M3.8 7.5H6M3.8 12H6M3.8 16.5H6", "M9.5 8.5l2.3 2-2.3 2", "M12.8 14.5h2.9"],
  // contours between two axes
  carta: ["M3.5 3.5v17h17", "M7 12.4c0-4.2 3.2-7.6 7.2-7.4 3.6.2 6 2.6 5.8 5.8-.2 3.6-3.4 6.4-7.4 6.4-3.4 0-5.6-1.9-5.6-4.8z", "M10.6 12c.2-2.2 1.9-3.7 3.9-3.5 1.7.2 2.7 1.4 2.5 3-.2 1.6-1.7 2.8-3.5 2.7-1.8-.1-3-.9-2.9-2.2z"],
  desktop: ["M3.5 4.5h17a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1h-17a1 1 0 0 1-1-1v-10a1 1 0 0 1 1-1z", "M12 16.5v3.2M8 20h8", "M5.5 13.5h6"],
  vscode: ["M8.2 7.2L3.5 12l4.7 4.8", "M15.8 7.2l4.7 4.8-4.7 4.8", "M13.6 4.8l-3.2 14.4"],
  // the insect, with its light
  firefly: ["M12 8.2c1.7 0 2.7 1.7 2.7 5.2S13.6 20.5 12 20.5s-2.7-3.6-2.7-7.1S10.3 8.2 12 8.2z", "M9.5 10.6C7.6 7.1 3.9 6.2 3.2 8s2.5 4.7 6.1 4.9", "M14.5 10.6c1.9-3.5 5.6-4.4 6.3-2.6s-2.5 4.7-6.1 4.9", "M11.2 8.2L9.8 4.5M12.8 8.2l1.4-3.7", "M9.5 15.7h5"],
  contributed: ["M12 3.2l7.7 4.4v8.8L12 20.8l-7.7-4.4V7.6z", "M4.5 7.7l7.5 4.3 7.5-4.3", "M12 12v8.6"],
};

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] `text` is the text content; null and false are left out
 * @param {(Node | null)[]} children
 * @returns {HTMLElement}
 */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false || value === "") continue;
    if (name === "text") node.textContent = String(value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @param {string} id @param {string} slot */
const slot = (id, slot) => /** @type {HTMLElement} */ (byId(id).querySelector(`[data-slot="${slot}"]`));

/** @param {string} kind */
function icon(kind) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  for (const d of Object.hasOwn(ICONS, kind) ? ICONS[kind] : ICONS.contributed) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    svg.append(path);
  }
  return svg;
}

/** The part of an image's name that tells it from its siblings: the tag when all else is the same. */
function imageLabel(/** @type {string} */ image, /** @type {string[]} */ siblings) {
  const split = (/** @type {string} */ name) => {
    const cut = name.lastIndexOf(":");
    return cut > name.lastIndexOf("/") ? [name.slice(0, cut), name.slice(cut + 1)] : [name, ""];
  };
  const [repository, tag] = split(image);
  const alike = siblings.every((other) => split(other)[0] === repository);
  if (alike && tag) return tag.length > 40 ? `${tag.slice(0, 39)}…` : tag;
  const name = image.slice(image.lastIndexOf("/") + 1);
  return name.length > 60 ? `${name.slice(0, 59)}…` : name;
}

/** On how many nodes of a cluster an image is, in words; empty where that is not known. */
function onNodes(/** @type {{nodes: number, of: number} | undefined} */ found) {
  if (!found) return "";
  if (found.nodes >= found.of) return "On the nodes already";
  return found.nodes ? `On ${found.nodes} of ${found.of} nodes` : "Not on the nodes yet";
}

/** A value near what was wished for, of those that are allowed; null when none is. */
function nearest(/** @type {Choice[]} */ choices, /** @type {number | null} */ wish) {
  const open = choices.filter((choice) => !choice.refusal).map((choice) => choice.value);
  if (open.length === 0) return null;
  if (wish === null) return open[0];
  if (open.includes(wish)) return wish;
  const smaller = open.filter((value) => value < wish);
  return smaller.length ? Math.max(...smaller) : Math.min(...open);
}

/** @param {unknown} value */
const asNumber = (value) =>
  value === null || value === undefined || value === "" || Number.isNaN(Number(value)) ? null : Number(value);

class Picker {
  /** @param {Offer} offer */
  constructor(offer) {
    this.offer = offer;
    this.form = /** @type {HTMLFormElement} */ (byId("picker").closest("form"));
    this.launch = /** @type {HTMLButtonElement} */ (byId("picker-launch"));
    this.name = /** @type {HTMLInputElement} */ (byId("picker-name"));
    this.file = /** @type {HTMLInputElement} */ (byId("picker-open"));
    this.filter = /** @type {HTMLInputElement} */ (byId("picker-filter"));
    this.busy = false;
    /** Numbers the cards, for ids that no catalogue can clash with. */
    this.serial = 0;
    /** @type {string | null} */ this.kind = null;
    /** @type {string | null} */ this.profile = null;
    /** The image chosen of each profile. @type {Map<string, string>} */
    this.images = new Map();
    /** What the user asked for, kept while an image does not offer it. @type {Record<Resource, number | null>} */
    this.wish = { cores: null, memory: null, gpus: null };
    /** What is chosen now. @type {Record<Resource, number | null>} */
    this.chosen = { cores: null, memory: null, gpus: null };
  }

  start() {
    const request = this.offer.request ?? {};
    this.fill(request);
    this.notice(this.follow(new URLSearchParams(location.search)));
    this.drawKinds();
    this.drawUsage();
    this.selectKind(this.kind);
    this.name.addEventListener("input", () => this.drawSummary());
    this.filter.addEventListener("input", () => this.applyFilter());
    this.filter.addEventListener("keydown", (event) => this.filterKey(event));
    this.form.addEventListener("submit", (event) => this.submit(event));
    addEventListener("pageshow", () => this.ready());
    byId("picker").hidden = false;
    this.revealChosen();
    this.offerCopy();
    this.showError();
  }

  /** @param {string | null} name */
  findProfile(name) {
    return this.offer.profiles.find((profile) => profile.profile === name) ?? null;
  }

  /** @param {string | null} kind */
  profilesOf(kind) {
    return this.offer.profiles.filter((profile) => kind !== null && profile.kinds.includes(kind));
  }

  /** Start with what the offer proposes, as far as it is open. @param {Record<string, string | number | null>} request */
  fill(request) {
    const open = (/** @type {Kind | undefined} */ kind) => kind && !kind.refusal;
    const { kinds, profiles } = this.offer;
    const profile = profiles.find((one) => one.profile === request.profile);
    const wanted = kinds.find((kind) => kind.kind === request.kind);
    const usable = kinds.find((kind) => open(kind) && this.profilesOf(kind.kind).some((one) => !one.refusal));
    this.kind = (open(wanted) ? wanted : (usable ?? kinds.find(open)))?.kind ?? null;
    if (profile) {
      this.profile = profile.profile;
      if (profile.images.includes(String(request.image))) this.images.set(profile.profile, String(request.image));
    }
    for (const resource of Object.keys(RESOURCES)) this.wish[resource] = asNumber(request[resource]);
    this.name.value = request.name ? String(request.name) : "";
    this.file.value = request.open ? String(request.open) : "";
    const active = this.offer.sessions?.active ?? 0;
    this.name.placeholder = `for example ${this.kind ?? "session"}-${active + 1}`;
  }

  /**
   * Take over what a link asks for, where it is on offer; answers with a sentence for each thing that is not.
   * @param {URLSearchParams} query
   * @returns {string[]}
   */
  follow(query) {
    // After a refused request the page still has the link's address: the user's own choices count then.
    if (document.getElementById("picker-error") || document.querySelector(".spawn-error-msg")) return [];
    const asked = Object.fromEntries(FIELDS.map((field) => [field, query.get(`opt-${field}`) ?? query.get(field)]));
    /** @type {string[]} */ const missing = [];
    const absent = (/** @type {string} */ what, /** @type {string} */ value) =>
      missing.push(`The link asks for the ${what} “${value}”, which is not on offer here.`);

    if (asked.kind !== null) {
      const kind = this.offer.kinds.find((one) => one.kind === asked.kind);
      if (!kind) absent("kind", asked.kind);
      else if (kind.refusal) missing.push(`The link asks for ${kind.title}. ${kind.refusal}`);
      else this.kind = kind.kind;
    }
    let profile = null;
    if (asked.profile !== null) {
      profile = this.findProfile(asked.profile);
      if (!profile) absent("profile", asked.profile);
    } else if (asked.image !== null) {
      const holders = this.offer.profiles.filter((one) => one.images.includes(asked.image));
      profile = holders.find((one) => !one.refusal && one.kinds.includes(this.kind ?? "")) ?? holders[0] ?? null;
      if (!profile) absent("image", asked.image);
    }
    if (profile?.refusal) {
      missing.push(`The link asks for ${profile.title}. ${profile.refusal}`);
      profile = null;
    }
    if (profile) profile = this.followProfile(profile, asked, missing, absent);
    const current = profile ?? this.findProfile(this.profile) ?? this.profilesOf(this.kind).find((one) => !one.refusal);
    for (const resource of /** @type {Resource[]} */ (Object.keys(RESOURCES))) {
      if (asked[resource] === null) continue;
      const value = asNumber(asked[resource]);
      const choice = current?.[resource].find((one) => one.value === value);
      const words = value === null ? `“${asked[resource]}” for ${RESOURCES[resource].legend}` : RESOURCES[resource].words(value);
      if (!choice) missing.push(`The link asks for ${words}, which is not on offer here.`);
      else if (choice.refusal) missing.push(`The link asks for ${words}. ${choice.refusal}`);
      else this.wish[resource] = value;
    }
    if (asked.open !== null) this.file.value = asked.open;
    if (asked.name !== null) this.name.value = asked.name.trim().slice(0, this.name.maxLength);
    return missing;
  }

  /** Choose a link's profile, its kind and its image; null when no kind of it is open. */
  followProfile(profile, asked, missing, absent) {
    const kinds = this.offer.kinds.filter((kind) => profile.kinds.includes(kind.kind));
    const keep = kinds.find((kind) => kind.kind === this.kind);
    const kind = keep ?? (asked.kind === null ? kinds.find((one) => !one.refusal) : null);
    if (!kind) {
      const why = kinds.find((one) => one.refusal)?.refusal ?? "It does not go with the chosen kind.";
      missing.push(`The link asks for ${profile.title}. ${asked.kind === null ? why : "It does not go with the chosen kind."}`);
      return null;
    }
    this.kind = kind.kind;
    this.profile = profile.profile;
    if (asked.image !== null && profile.images.includes(asked.image)) this.images.set(profile.profile, asked.image);
    else if (asked.image !== null) absent("image", asked.image);
    return profile;
  }

  /** @param {string[]} sentences */
  notice(sentences) {
    const notice = byId("picker-notice");
    notice.textContent = sentences.join(" ");
    notice.hidden = sentences.length === 0;
  }

  /**
   * One card: a radio input that covers it, a title, a description, and why it cannot be chosen.
   * @param {{name: string, value: string, title: string, description: string, refusal: string, picture?: Node,
   *   extra?: HTMLElement}} card
   * @param {() => void} choose
   */
  card({ name, value, title, description, refusal, picture, extra }, choose) {
    const id = `picker-${name}-${++this.serial}`;
    const described = [description && `${id}-text`, refusal && `${id}-why`].filter(Boolean).join(" ");
    const input = element("input", {
      type: "radio", name, value, id, disabled: Boolean(refusal), autocomplete: "off", "aria-describedby": described,
    });
    input.addEventListener("change", choose);
    return element(
      "div",
      { class: "picker-card" },
      input,
      picture ? element("span", { class: "picker-icon" }, picture) : null,
      element(
        "div",
        { class: "picker-card-body" },
        element("label", { class: "picker-card-title", for: id, text: title }),
        description ? element("p", { class: "picker-card-text", id: `${id}-text`, text: description }) : null,
        extra ?? null,
      ),
      refusal ? element("p", { class: "picker-card-why", id: `${id}-why`, text: refusal }) : null,
    );
  }

  drawKinds() {
    const cards = this.offer.kinds.map((kind) =>
      this.card(
        { ...kind, name: "kind", value: kind.kind, picture: icon(kind.kind) },
        () => this.selectKind(kind.kind),
      ),
    );
    slot("picker-kinds", "cards").replaceChildren(...cards);
    byId("picker-kinds").hidden = cards.length === 0;
  }

  /** @param {string | null} kind */
  selectKind(kind) {
    this.kind = kind;
    this.check("picker-kinds", kind);
    const profiles = this.profilesOf(kind);
    const current = profiles.find((one) => one.profile === this.profile && !one.refusal);
    this.profile = (current ?? profiles.find((one) => !one.refusal))?.profile ?? null;
    this.drawProfiles(profiles);
    this.selectProfile(this.profile);
  }

  /** @param {Profile[]} profiles */
  drawProfiles(profiles) {
    const cards = profiles.map((profile) => {
      const extra = element("div", { class: "picker-tag" });
      const card = this.card(
        { ...profile, name: "profile", value: profile.profile, extra },
        () => this.selectProfile(profile.profile),
      );
      card.dataset.search = [profile.title, profile.description, ...profile.images].join("\n").toLowerCase();
      card.dataset.profile = profile.profile;
      return card;
    });
    const list = slot("picker-profiles", "cards");
    list.replaceChildren(...cards);
    list.classList.toggle("picker-cards-many", cards.length >= FILTER_FROM);
    list.scrollTop = 0;
    const filter = /** @type {HTMLElement} */ (this.filter.parentElement);
    filter.hidden = cards.length < FILTER_FROM;
    this.filter.value = "";
    this.applyFilter();
    const empty = slot("picker-profiles", "empty");
    const title = this.offer.kinds.find((one) => one.kind === this.kind)?.title;
    empty.textContent = title ? `No image for ${title} is open to you. Choose another kind, or ask the people who run this site.`
      : "No kind of session is open to you at the moment.";
    empty.hidden = cards.length > 0;
  }

  /** @param {string | null} name */
  selectProfile(name) {
    this.profile = name;
    this.check("picker-profiles", name);
    for (const card of slot("picker-profiles", "cards").children) this.drawTag(/** @type {HTMLElement} */ (card));
    this.drawResources();
    this.drawSummary();
  }

  /** @param {string} group @param {string | null} value */
  check(group, value) {
    for (const input of slot(group, "cards").querySelectorAll("input[type=radio]")) input.checked = input.value === value;
  }

  /** The chosen profile lets its tag be chosen, the others only show it: no detour for the tab key. */
  drawTag(/** @type {HTMLElement} */ card) {
    const profile = /** @type {Profile} */ (this.findProfile(card.dataset.profile ?? ""));
    const place = /** @type {HTMLElement} */ (card.querySelector(".picker-tag"));
    const { images } = profile;
    const image = this.imageOf(profile);
    if (images.length < 2 || profile.profile !== this.profile) {
      place.replaceChildren(element("code", { text: image === null ? "" : imageLabel(image, images) }));
      if (images.length > 1) place.append(element("span", { text: `and ${images.length - 1} more` }));
      place.append(this.nodesOf(image));
      return;
    }
    const select = element("select", { "aria-label": `Version of ${profile.title}`, autocomplete: "off" },
      ...images.map((one) => element("option", { value: one, text: imageLabel(one, images) })));
    select.value = image;
    select.addEventListener("change", () => {
      this.images.set(profile.profile, select.value);
      place.lastElementChild?.replaceWith(this.nodesOf(select.value));
      this.drawSummary();
    });
    place.replaceChildren(select, this.nodesOf(image));
  }

  /** What is known of an image's being there before it is asked for. @param {string | null} image */
  nodesOf(image) {
    const known = this.offer.on_nodes ?? {};
    const found = image !== null && Object.hasOwn(known, image) ? known[image] : undefined;
    const text = onNodes(found);
    const there = found && found.nodes >= found.of;
    return element("span", { class: there ? "picker-nodes picker-nodes-all" : "picker-nodes", hidden: !text, text });
  }

  /** @param {Profile | null} profile */
  imageOf(profile) {
    return profile ? (this.images.get(profile.profile) ?? profile.images[0] ?? null) : null;
  }

  drawResources() {
    const profile = this.findProfile(this.profile);
    const rows = profile ? /** @type {Resource[]} */ (Object.keys(RESOURCES)).map((one) => this.resourceRow(profile, one)) : [];
    const place = byId("picker-resources");
    place.replaceChildren(...rows);
    place.hidden = rows.length === 0;
  }

  /** @param {Profile} profile @param {Resource} resource */
  resourceRow(profile, resource) {
    const { legend, label } = RESOURCES[resource];
    const choices = profile[resource];
    this.chosen[resource] = nearest(choices, this.wish[resource]);
    const reasons = [...new Set(choices.map((choice) => choice.refusal).filter(Boolean))];
    const reasonId = (/** @type {string} */ reason) => `picker-${resource}-why-${reasons.indexOf(reason)}`;
    const segments = choices.map((choice) => {
      const input = element("input", {
        type: "radio", name: resource, value: choice.value, disabled: Boolean(choice.refusal), autocomplete: "off",
        "aria-describedby": choice.refusal ? reasonId(choice.refusal) : null,
      });
      input.checked = choice.value === this.chosen[resource];
      input.addEventListener("change", () => {
        this.wish[resource] = this.chosen[resource] = choice.value;
        this.drawSummary();
      });
      return element("label", { class: "picker-segment" }, input, element("span", { text: label(choice.value) }));
    });
    const notes = reasons.map((reason) => {
      const values = choices.filter((choice) => choice.refusal === reason).map((choice) => label(choice.value));
      return element("p", { class: "picker-why", id: reasonId(reason) },
        values.length < choices.length ? element("b", { text: `${values.join(", ")}: ` }) : null,
        document.createTextNode(reason));
    });
    const row = element("fieldset", { "aria-describedby": reasons.map(reasonId).join(" "), "data-resource": resource },
      element("legend", { text: legend }), element("div", { class: "picker-segments" }, ...segments), ...notes);
    row.hidden = choices.length === 0 || (resource === "gpus" && choices.every((choice) => choice.value === 0));
    return row;
  }

  drawUsage() {
    const { active = 0, limit = 0 } = this.offer.sessions ?? {};
    byId("picker-usage").textContent = limit ? `${active} of ${limit} running` : active ? `${active} running` : "";
  }

  /** Why Launch cannot be pressed; empty when it can. */
  blocker() {
    if (this.offer.refusal) return this.offer.refusal;
    const profile = this.findProfile(this.profile);
    if (!this.kind) return "No kind of session is open to you.";
    if (!profile) return "Choose an image that is open to you.";
    for (const resource of /** @type {Resource[]} */ (Object.keys(RESOURCES))) {
      if (profile[resource].length && this.chosen[resource] === null) {
        return `No choice of ${RESOURCES[resource].legend} is open for this image.`;
      }
    }
    return "";
  }

  drawSummary() {
    const profile = this.findProfile(this.profile);
    const image = this.imageOf(profile);
    const kind = this.offer.kinds.find((one) => one.kind === this.kind);
    const used = profile ? /** @type {Resource[]} */ (Object.keys(RESOURCES)).filter((one) => this.chosen[one]) : [];
    const words = used.map((one) => RESOURCES[one].words(/** @type {number} */ (this.chosen[one])));
    const label = image && profile ? imageLabel(image, profile.images) : "";
    const opens = Boolean(profile?.opens.includes(this.kind ?? ""));
    this.file.disabled = !opens || !this.file.value; // what cannot open a file is not asked to
    const facts = [["Kind", kind?.title], ["Image", profile?.title], ["Version", label], ["Resources", words.join(", ")],
      ["Opens", opens ? this.file.value : ""], ["Name", this.name.value.trim()]];
    byId("picker-facts").replaceChildren(...facts.filter(([, value]) => value).map(([term, value]) =>
      element("div", {}, element("dt", { text: term }), element("dd", { text: value, title: term === "Version" ? image : null }))));
    byId("picker-line").textContent = [kind?.title, profile?.title, label, ...words].filter(Boolean).join(" · ");
    /** @type {HTMLInputElement} */ (byId("picker-image")).value = image ?? "";
    this.drawStatus();
  }

  drawStatus() {
    const why = this.blocker();
    const status = byId("picker-status");
    if (status.dataset.why !== why) {
      status.dataset.why = why;
      status.textContent = why;
      if (this.offer.refusal) status.append(" ", element("a", { href: this.hubUrl("home"), text: "Your sessions" }));
    }
    this.launch.disabled = this.busy || Boolean(why);
  }

  /** @param {string} page */
  hubUrl(page) {
    return `${this.offer.static.replace(/canfar\/static\/?$/, "")}${page}`;
  }

  applyFilter() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const cards = /** @type {HTMLElement[]} */ ([...slot("picker-profiles", "cards").children]);
    for (const card of cards) card.hidden = !words.every((word) => (card.dataset.search ?? "").includes(word));
    const shown = cards.filter((card) => !card.hidden).length;
    byId("picker-filter-count").textContent = words.length ? `${shown} of ${cards.length}` : `${cards.length} images`;
  }

  /** Enter in the filter chooses what was found, and never launches. @param {KeyboardEvent} event */
  filterKey(event) {
    if (event.key === "Escape" && this.filter.value) {
      this.filter.value = "";
      this.applyFilter();
    } else if (event.key === "Enter") {
      const found = slot("picker-profiles", "cards").querySelector(".picker-card:not([hidden]) input:not(:disabled)");
      if (found) {
        found.focus();
        found.click();
      }
    } else return;
    event.preventDefault();
  }

  /** @param {SubmitEvent} event */
  submit(event) {
    if (this.busy || this.blocker()) {
      event.preventDefault();
      return;
    }
    this.name.value = this.name.value.trim();
    this.form.action = this.target(this.form.action);
    this.busy = true;
    this.drawLaunch();
  }

  /** The form's address without what a link asked for: the choices in the form have taken its place. */
  target(/** @type {string} */ address) {
    const url = new URL(address, location.href);
    for (const field of FIELDS) {
      url.searchParams.delete(field);
      url.searchParams.delete(`opt-${field}`);
    }
    return url.href;
  }

  /** The form can be used again, for one after the Back button. */
  ready() {
    this.busy = false;
    this.drawLaunch();
  }

  drawLaunch() {
    slot("picker-launch", "label").textContent = this.busy ? "Starting…" : "Launch";
    this.launch.classList.toggle("picker-busy", this.busy);
    this.drawStatus();
  }

  revealChosen() {
    const list = slot("picker-profiles", "cards");
    const card = /** @type {HTMLElement | null} */ (list.querySelector(".picker-card:has(input:checked)"));
    if (card) list.scrollTop = card.offsetTop - list.offsetTop - 8;
  }

  offerCopy() {
    const button = /** @type {HTMLButtonElement} */ (byId("picker-copy"));
    button.hidden = !navigator.clipboard;
    const words = button.textContent;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(this.link());
        button.textContent = "Link copied";
      } catch {
        button.textContent = "The browser did not allow copying";
      }
      setTimeout(() => { button.textContent = words; }, 2500);
    });
  }

  /** An address that fills the form like this for anybody. */
  link() {
    const url = new URL(this.hubUrl("spawn"), location.href);
    const image = this.imageOf(this.findProfile(this.profile));
    const open = this.file.disabled ? null : this.file.value;
    const choices = { kind: this.kind, profile: this.profile, image, ...this.chosen, open };
    for (const [field, value] of Object.entries(choices)) {
      if (value !== null) url.searchParams.set(`opt-${field}`, String(value));
    }
    return url.href;
  }

  showError() {
    document.getElementById("picker-error")?.focus();
  }
}

/** Nothing on offer: say so, and what to do. @param {Offer} offer */
function drawVoid(offer) {
  const place = byId("picker-void");
  place.append(
    element("h2", { text: "No images yet" }),
    element("p", { text: offer.refusal || "No image is open to you on this site. Ask the people who run it to add you to a group that has images, then load this page again." }),
  );
  const error = document.getElementById("picker-error");
  if (error) place.prepend(error);
  place.hidden = false;
}

function main() {
  const offer = /** @type {Offer} */ (JSON.parse(byId("picker-offer").textContent ?? "{}"));
  if (offer.profiles.length) new Picker(offer).start();
  else drawVoid(offer);
}

const loading = byId("picker-loading");
try {
  main();
  loading.remove();
} catch (problem) {
  loading.textContent = "The form could not be drawn. Load the page again; if that does not help, tell the people who run this site.";
  throw problem;
}
