/* Keeps the tasks on a page up to date. <task-progress> shows one task, <task-list> the newest ones.
 *
 * The server renders the tasks. Whenever a task changes, the script fills in its element again. All
 * elements of a page share one connection. If the page has data-events-url, that is a stream of
 * server-sent events; otherwise the script polls, less often while nothing changes. The connection
 * pauses while the tab is hidden, and ends when all tasks are finished. A task that is missing in
 * the responses is asked for less and less often.
 *
 * Each response has the mark of the user that it is for. If the browser has signed in as another user
 * since the page was loaded, the tasks of the first user are removed at once.
 *
 * A task-progress fires "task-changed" at each change and "task-finished" once. Both events bubble,
 * and their detail is the task. All texts come from the server.
 */
(() => {
  "use strict";

  if (customElements.get("task-progress")) return; // The page loads this script twice.

  // All times are in milliseconds.
  const MIN_INTERVAL = 1000; // Between two requests while something changes.
  const MAX_INTERVAL = 15000; // Between two requests when nothing has changed for a long time.
  const GROWTH = 1.5;
  const TIMEOUT = 15000; // For a response, and for the first event of a stream.
  const MAX_IDS = 50; // The server accepts no more per request.
  const MISSING_PATIENCE = 60000; // A task that is missing for longer is asked for less often,
  const MAX_MISSING_INTERVAL = 300000; // but at least once in this time.
  const FINISHED = ["done", "failed", "skipped"];
  const LOGGED_FAILURE = 3; // Of several in a row. The first ones may come from a server that restarts.
  // For developers, in the console.
  const SEE_ENQUEUED = "See docs/troubleshooting.md#a-task-stays-enqueued.";
  const SEE_LOST = "See docs/troubleshooting.md#connection-lost-trying-again.";

  const elements = new Set();
  const lists = new Set();

  // ---- The connection. At any time it waits for its timer, for a response, or for events.

  let timer = null;
  let request = null; // The AbortController of the running request.
  let source = null; // The EventSource of the open stream.
  let firstEventTimer = null; // Ends the stream if its first event does not come.
  let requestedAt = -Infinity; // When the last request was made.
  let interval = MIN_INTERVAL;
  let failures = 0;
  let offset = 0; // Of the next request in the list of ids, if one request can't hold all of them.
  let canStream = "EventSource" in window;
  let isStreamRefused = false; // The server has too many streams already, or can't stream.
  let isDenied = false; // The user is signed out.
  const loggedHints = new Set(); // The ids of the tasks whose hints are in the console already.

  /** Make a request soon, because there is something new to ask for. */
  function wake() {
    interval = MIN_INTERVAL;
    if (source) stopStream();
    // A script that moves elements may call this many times a second: one request a second is enough.
    schedule(Math.max(requestedAt + MIN_INTERVAL - performance.now(), 0));
  }

  /** Ask for all tasks again after the page was hidden: the user may have signed in again. */
  function resume() {
    isDenied = isStreamRefused = false;
    // The response to a running request may still be for the previous user.
    if (request) request.abort();
    request = null;
    for (const element of elements) {
      element.dueAt = 0;
      if (element.isForeign) element.isChecked = false;
    }
    // Finished tasks may belong to another user now as well. A response about one task shows that.
    const first = [...elements].find((element) => element.dataset.task);
    if (first) first.isChecked = false;
    wake();
  }

  /** Stop while the page is hidden. */
  function pause() {
    clearTimeout(timer);
    if (source) stopStream();
  }

  function schedule(delay) {
    clearTimeout(timer);
    if (delay !== Infinity) timer = setTimeout(poll, delay);
  }

  /** The ids of the tasks to ask for now, each once. */
  function dueIds() {
    const ids = new Set();
    const now = performance.now();
    for (const element of elements) {
      if (element.isPending && element.dueAt <= now) ids.add(element.dataset.task);
    }
    return [...ids];
  }

  /** The time until a missing task is asked for again, or is left out of the stream. */
  function untilNextMissing() {
    const times = [...elements].filter((e) => e.isPending).map((e) => e.nextChange);
    return Math.max(Math.min(...times) - performance.now(), MIN_INTERVAL);
  }

  /** The lists that show new tasks: those of a first page. */
  function liveLists() {
    return [...lists].filter((list) => list.dataset.cursor);
  }

  /** The URL of the next request, from the data attribute with this name; null if there is nothing
   * to ask for. */
  function makeUrl(name) {
    const holders = [...lists, ...elements];
    const holder = holders.find((element) => element.dataset[name]);
    const ids = dueIds();
    const live = liveLists();
    if (!holder || !(ids.length || live.length)) return null;
    const url = new URL(holder.dataset[name], document.baseURI);
    offset = offset < ids.length ? offset : 0;
    for (const id of ids.slice(offset, offset + MAX_IDS)) url.searchParams.append("id", id);
    if (live.length) url.searchParams.set("since", live[0].dataset.cursor);
    return url;
  }

  async function poll() {
    if (request || isDenied || document.hidden) return;
    if (source) stopStream();
    const url = makeUrl("url");
    if (!url) {
      schedule(untilNextMissing());
      return;
    }
    requestedAt = performance.now();
    const controller = new AbortController();
    request = controller;
    const limit = setTimeout(() => controller.abort(), TIMEOUT);
    let page = null;
    let status = 0; // Of the response; 0 if there is none.
    let isRefused = false;
    try {
      const response = await fetch(url, {
        signal: controller.signal,
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        cache: "no-store",
      });
      status = response.status;
      if (status === 401 || status === 403) isRefused = true;
      else if (response.ok) page = await response.json();
    } catch (error) {
      // No connection, no response in time, or not JSON: page stays null.
    }
    clearTimeout(limit);
    if (request !== controller) return; // A newer request has replaced this one.
    request = null;
    isDenied = isRefused;
    if (isDenied) {
      failures += 1;
      showMessage("textDenied");
    } else if (page && Array.isArray(page.tasks)) {
      onResponse(page, url.searchParams.getAll("id"));
    } else {
      onFailure(url, status);
    }
  }

  function onResponse(page, ids) {
    if (failures) showMessage(null);
    failures = 0;
    if (switchViewer(page)) return;
    interval = apply(page) ? MIN_INTERVAL : Math.min(interval * GROWTH, MAX_INTERVAL);
    markMissing(page, ids);
    offset += MAX_IDS;
    if (openStream()) schedule(untilNextMissing());
    else schedule(makeUrl("url") ? interval : untilNextMissing());
  }

  function onFailure(url, status) {
    failures += 1;
    // If there was no response, the browser has logged that.
    if (failures === LOGGED_FAILURE && status) {
      console.warn(`taskstate: ${url.pathname} returns no tasks (HTTP ${status}). ${SEE_LOST}`);
    }
    showMessage("textLost");
    const delay = Math.min(MIN_INTERVAL * 2 ** (failures - 1), MAX_INTERVAL);
    // At random, so that not all browsers return at once when the server is back.
    schedule(delay * (0.75 + Math.random() / 2));
  }

  /** If a response is for another user than the page, remove all tasks from the page and start
   * again. Return whether it is. */
  function switchViewer(page) {
    let isOther = false;
    for (const holder of [...lists, ...elements]) {
      const known = holder.dataset.viewer;
      if (page.viewer && holder.dataset.url) holder.dataset.viewer = page.viewer;
      if (!known || !page.viewer || known === page.viewer) continue;
      isOther = true;
      holder.clear();
    }
    if (isOther) {
      interval = MIN_INTERVAL;
      if (source) stopStream();
      showMessage(null);
      // Not at once: there is a pause between two requests, whatever the server answers.
      schedule(interval);
    }
    return isOther;
  }

  /** Mark the tasks that were asked for and are missing in the response. */
  function markMissing(page, ids) {
    const missing = new Set(ids);
    for (const task of page.tasks) missing.delete(task.id);
    for (const element of elements) if (missing.has(element.dataset.task)) element.markMissing();
    for (const [id, hint] of Object.entries(page.hints || {})) {
      if (loggedHints.has(id)) continue;
      loggedHints.add(id);
      console.warn(`taskstate: task ${id}: ${hint} ${SEE_ENQUEUED}`);
    }
  }

  /** Open a stream of events, if the page has one and one request can hold all ids. Return whether
   * it was opened. */
  function openStream() {
    if (!canStream || isStreamRefused || document.hidden || dueIds().length > MAX_IDS) return false;
    const url = makeUrl("eventsUrl");
    if (!url) return false;
    source = new EventSource(url);
    // A proxy may hold the events back.
    firstEventTimer = setTimeout(() => {
      canStream = false;
      endStream();
    }, TIMEOUT);
    source.onmessage = (event) => {
      clearTimeout(firstEventTimer);
      interval = MIN_INTERVAL;
      const page = JSON.parse(event.data);
      if (switchViewer(page)) return;
      apply(page);
      if (source && !makeUrl("eventsUrl")) stopStream();
    };
    source.onerror = () => {
      // A stream that is closed was refused. Any other one was interrupted, as the server does after
      // a while. The next request finds out what is wrong, and opens the stream again.
      if (source) isStreamRefused = source.readyState === EventSource.CLOSED;
      endStream();
    };
    return true;
  }

  /** Close the stream, and poll. */
  function endStream() {
    if (!source) return;
    stopStream();
    schedule(interval);
  }

  function stopStream() {
    clearTimeout(firstEventTimer); // It would end the next stream.
    source.onmessage = source.onerror = null;
    source.close();
    source = null;
  }

  /** Show the tasks of a response. Return whether anything has changed. */
  function apply(page) {
    let hasChanged = false;
    // Oldest first, in the order in which they were enqueued.
    for (const task of page.tasks.slice().reverse()) {
      for (const list of liveLists()) hasChanged = list.add(task) || hasChanged;
      for (const element of elements) {
        if (element.dataset.task === task.id) hasChanged = element.update(task) || hasChanged;
      }
    }
    for (const list of liveLists()) list.dataset.cursor = page.cursor || list.dataset.cursor;
    return hasChanged;
  }

  /** Show a message about the connection: the text in the data attribute with this name, or none. */
  function showMessage(name) {
    let isFirst = true;
    for (const holder of [...lists, ...elements]) {
      const spot = holder.querySelector("[data-problem]");
      if (!spot) continue;
      const key = holder.isForeign ? "textOtherUser" : name;
      const text = (key && holder.dataset[key]) || "";
      // Only one element is a status region, so that the text is announced once.
      if (isFirst || !text) spot.setAttribute("role", "status");
      else spot.removeAttribute("role");
      if (text) isFirst = false;
      setText(spot, text);
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? pause() : resume()));
  window.addEventListener("online", wake);
  // The browser may restore the page from its back/forward cache.
  window.addEventListener("pageshow", (event) => event.persisted && resume());

  // ---- The elements.

  function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  class TaskProgress extends HTMLElement {
    constructor() {
      super();
      this.dueAt = 0; // When to ask for the task next.
      this.missingSince = null; // Since when the task is missing in responses, or null.
      this.isChecked = true; // False until a response shows whether the present user may see it.
      this.isForeign = false; // Whether it showed a task of another user, which was removed.
    }

    connectedCallback() {
      elements.add(this);
      // A live list receives the changes of its tasks without asking for each one.
      if (this.isPending && !this.closest("task-list[data-cursor]")) wake();
    }

    disconnectedCallback() {
      elements.delete(this);
    }

    get isPending() {
      if (!this.dataset.task) return false;
      return !this.isChecked || !(this.isForeign || FINISHED.includes(this.dataset.status));
    }

    /** When to ask for the task again, or to begin to ask less often. */
    get nextChange() {
      if (this.dueAt > performance.now()) return this.dueAt;
      return this.missingSince === null ? Infinity : this.missingSince + MISSING_PATIENCE;
    }

    /** Note that the task is missing in a response. */
    markMissing() {
      const now = performance.now();
      if (this.missingSince === null) this.missingSince = now;
      const age = now - this.missingSince;
      if (age >= MISSING_PATIENCE) this.dueAt = now + Math.min(age / 2, MAX_MISSING_INTERVAL);
      this.isChecked = true;
    }

    /** Remove the task of another user. The next request asks whether the new user may see it. */
    clear() {
      this.isChecked = false;
      this.isForeign = true;
      this.dueAt = 0;
      this.missingSince = null;
      this.state = this.task = undefined;
      this.dataset.status = "";
      this.dataset.enqueued = "";
      for (const spot of this.querySelectorAll("[data-field], [data-announcer]")) {
        setText(spot, "");
        if (spot.dateTime !== undefined) spot.dateTime = "";
      }
      const bar = this.querySelector("progress");
      if (!bar) return;
      bar.hidden = true;
      for (const name of ["aria-label", "aria-valuetext", "value"]) bar.removeAttribute(name);
    }

    /** Show a task. Return whether anything about it has changed. */
    update(task) {
      this.dueAt = 0;
      this.missingSince = null;
      this.isChecked = true;
      if (this.isForeign) {
        this.isForeign = false;
        showMessage(null);
      }
      // Only a task that was asked for by its id comes with its result.
      const state = JSON.stringify({ ...task, result: null });
      if (state === this.state) return false;
      this.state = state;
      this.task = task;
      const wasPending = this.isPending;
      const isNewStatus = this.dataset.status !== task.status;
      this.dataset.status = task.status;
      this.dataset.enqueued = task.enqueued_at;
      for (const spot of this.querySelectorAll("[data-field]")) {
        setText(spot, String(task[spot.dataset.field] || ""));
        if (spot.dateTime !== undefined) spot.dateTime = task.enqueued_at;
      }
      const bar = this.querySelector("progress");
      if (bar) this.updateBar(bar, task);
      const announcer = this.querySelector("[data-announcer]");
      if (announcer && isNewStatus) setText(announcer, `${task.title}: ${task.status_label}`);
      this.fire("task-changed");
      if (wasPending && task.is_finished) this.fire("task-finished");
      return true;
    }

    updateBar(bar, task) {
      const value = task.status === "done" ? 100 : task.progress;
      // A bar without a value is indeterminate.
      if (value == null) bar.removeAttribute("value");
      else bar.value = value;
      bar.hidden = task.status === "failed" || task.status === "skipped";
      bar.setAttribute("aria-label", task.title);
      if (task.percent) bar.setAttribute("aria-valuetext", task.percent);
      else bar.removeAttribute("aria-valuetext");
    }

    fire(name) {
      this.dispatchEvent(new CustomEvent(name, { detail: this.task, bubbles: true }));
    }
  }

  class TaskList extends HTMLElement {
    connectedCallback() {
      lists.add(this);
      wake();
    }

    disconnectedCallback() {
      lists.delete(this);
    }

    /** Remove the tasks of another user. A live list starts again with the newest tasks. */
    clear() {
      for (const row of this.querySelectorAll("ol > li")) row.remove();
      const empty = this.querySelector("[data-empty]");
      this.isForeign = !this.dataset.cursor;
      if (this.dataset.cursor) this.dataset.cursor = "0";
      if (empty) empty.hidden = this.isForeign;
    }

    /** Add a row for a task, if the list does not have one. Return whether it was added. */
    add(task) {
      const template = this.querySelector("template");
      const rows = [...this.querySelectorAll("ol > li")];
      const shown = rows.map((row) => row.querySelector("task-progress"));
      if (!template || shown.some((element) => element && element.dataset.task === task.id)) {
        return false;
      }
      const limit = Number(this.dataset.limit) || Infinity;
      const index = shown.findIndex((e) => e && e.dataset.enqueued <= task.enqueued_at);
      // A task that is older than all rows of a full list belongs on another page.
      if (index < 0 && rows.length >= limit) return false;
      const row = document.importNode(template.content, true).querySelector("li");
      const element = row.querySelector("task-progress");
      element.dataset.task = task.id;
      // When a list starts again, its tasks have not changed: no event, no announcement.
      if (this.dataset.cursor === "0") element.dataset.status = task.status;
      this.querySelector("ol").insertBefore(row, index < 0 ? null : rows[index]);
      if (rows.length >= limit) rows[rows.length - 1].remove();
      const empty = this.querySelector("[data-empty]");
      if (empty) empty.hidden = true;
      return true;
    }
  }

  customElements.define("task-progress", TaskProgress);
  customElements.define("task-list", TaskList);
})();
