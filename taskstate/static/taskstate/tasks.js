/* Keeps the tasks on a page up to date: <task-progress> shows one, <task-list> the newest.
 *
 * What the server has rendered inside of them is filled in anew whenever a task changes. All elements
 * of a page share one connection: requests that become rarer while nothing happens, or server-sent
 * events where the page has data-events-url. It rests while the tab is hidden, and ends when all
 * tasks are finished.
 *
 * A task-progress fires "task-changed" and, once, "task-finished"; both bubble, and their detail is
 * the task. All texts come from the server.
 */
(() => {
  "use strict";

  if (customElements.get("task-progress")) return; // The page has this script twice.

  const FASTEST = 1000; // Milliseconds between two requests while something changes,
  const SLOWEST = 15000; // and when nothing has for long.
  const GROWTH = 1.5;
  const TIMEOUT = 15000; // For an answer, and for the first event of a stream.
  const MOST_IDS = 50; // The server takes no more with one request.
  const FINISHED = ["done", "failed", "skipped"];

  const elements = new Set();
  const lists = new Set();

  // ---- The connection: at any time it waits for its timer, for an answer, or for events.

  let timer = null;
  let request = null; // An AbortController.
  let source = null; // An EventSource.
  let interval = FASTEST;
  let failures = 0;
  let turn = 0; // Where the next request starts, if there are more ids than it can hold.
  let canStream = "EventSource" in window;
  let isDenied = false;

  /** Ask now, because there is something new to ask for. */
  function wake() {
    interval = FASTEST;
    if (source) stopStream();
    schedule(0);
  }

  function schedule(delay) {
    clearTimeout(timer);
    timer = setTimeout(ask, delay);
  }

  function rest() {
    clearTimeout(timer);
    if (source) stopStream();
  }

  /** The ids of all tasks that are not finished, each once. */
  function pendingIds() {
    const ids = new Set();
    for (const element of elements) if (element.isPending) ids.add(element.dataset.task);
    return [...ids];
  }

  function liveLists() {
    return [...lists].filter((list) => list.dataset.cursor);
  }

  /** The address to ask at, by the name of its data attribute; null if there is nothing to ask. */
  function address(name) {
    const holders = [...lists, ...elements];
    const holder = holders.find((element) => element.dataset[name]);
    const ids = pendingIds();
    const live = liveLists();
    if (!holder || !(ids.length || live.length)) return null;
    const url = new URL(holder.dataset[name], document.baseURI);
    turn = turn < ids.length ? turn : 0;
    for (const id of ids.slice(turn, turn + MOST_IDS)) url.searchParams.append("id", id);
    if (live.length) url.searchParams.set("since", live[0].dataset.cursor);
    return url;
  }

  async function ask() {
    if (request || source || isDenied || document.hidden) return;
    const url = address("url");
    if (!url) return;
    request = new AbortController();
    const limit = setTimeout(() => request.abort(), TIMEOUT);
    let found = null;
    try {
      const response = await fetch(url, {
        signal: request.signal,
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        cache: "no-store",
      });
      if (response.status === 401 || response.status === 403) isDenied = true;
      else if (response.ok) found = await response.json();
    } catch (error) {
      // No connection, no answer in time, or no JSON: found stays null.
    }
    clearTimeout(limit);
    request = null;
    if (isDenied) say("textDenied");
    else if (found && Array.isArray(found.tasks)) heard(found);
    else lost();
  }

  function heard(found) {
    if (failures) say(null);
    failures = 0;
    interval = take(found) ? FASTEST : Math.min(interval * GROWTH, SLOWEST);
    turn += MOST_IDS;
    if (!stream()) schedule(interval);
  }

  function lost() {
    failures += 1;
    say("textLost");
    const delay = Math.min(FASTEST * 2 ** (failures - 1), SLOWEST);
    // Not all browsers at once, when the server is back.
    schedule(delay * (0.75 + Math.random() / 2));
  }

  /** Open a stream of events, if the page has one and it can hold all ids. */
  function stream() {
    const url = canStream && pendingIds().length <= MOST_IDS ? address("eventsUrl") : null;
    if (!url || document.hidden) return false;
    source = new EventSource(url);
    // A proxy may keep the events to itself.
    const limit = setTimeout(() => endStream(true), TIMEOUT);
    source.onmessage = (event) => {
      clearTimeout(limit);
      interval = FASTEST;
      take(JSON.parse(event.data));
      if (source && !address("eventsUrl")) stopStream();
    };
    source.onerror = () => {
      clearTimeout(limit);
      // Closed by itself: the server has no events. Else it was interrupted, as it is now and then
      // on purpose; a request finds out what is the matter, and opens it again.
      endStream(source && source.readyState === EventSource.CLOSED);
    };
    return true;
  }

  function endStream(forGood) {
    if (!source) return;
    if (forGood) canStream = false;
    stopStream();
    schedule(interval);
  }

  function stopStream() {
    source.onmessage = source.onerror = null;
    source.close();
    source = null;
  }

  /** Show what was found; return whether anything was new. */
  function take(found) {
    let isNew = false;
    // Oldest first, as it happened.
    for (const task of found.tasks.slice().reverse()) {
      for (const list of liveLists()) isNew = list.add(task) || isNew;
      for (const element of elements) {
        if (element.dataset.task === task.id) isNew = element.update(task) || isNew;
      }
    }
    for (const list of liveLists()) list.dataset.cursor = found.cursor;
    return isNew;
  }

  /** Show one of the texts about the connection, or none. */
  function say(name) {
    for (const holder of [...lists, ...elements]) {
      const spot = holder.querySelector("[data-problem]");
      if (spot) setText(spot, (name && holder.dataset[name]) || "");
    }
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : wake()));
  window.addEventListener("online", wake);

  // ---- The elements.

  function setText(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  class TaskProgress extends HTMLElement {
    connectedCallback() {
      elements.add(this);
      // A live list hears of its tasks without asking for each.
      if (this.isPending && !this.closest("task-list[data-cursor]")) wake();
    }

    disconnectedCallback() {
      elements.delete(this);
    }

    get isPending() {
      return Boolean(this.dataset.task) && !FINISHED.includes(this.dataset.status);
    }

    /** Show a task; return whether anything about it is new. */
    update(task) {
      // The result comes only with what was asked for by its id.
      const state = JSON.stringify({ ...task, result: null });
      if (state === this.state) return false;
      this.state = state;
      this.task = task;
      const wasPending = this.isPending;
      const isOtherStatus = this.dataset.status !== task.status;
      this.dataset.status = task.status;
      this.dataset.enqueued = task.enqueued_at;
      for (const spot of this.querySelectorAll("[data-field]")) {
        setText(spot, String(task[spot.dataset.field] || ""));
        if (spot.dateTime !== undefined) spot.dateTime = task.enqueued_at;
      }
      const bar = this.querySelector("progress");
      if (bar) this.fill(bar, task);
      const announcer = this.querySelector("[data-announcer]");
      if (announcer && isOtherStatus) setText(announcer, `${task.title}: ${task.status_label}`);
      this.tell("task-changed");
      if (wasPending && task.is_finished) this.tell("task-finished");
      return true;
    }

    fill(bar, task) {
      const value = task.status === "done" ? 100 : task.progress;
      // Without a value it is indeterminate.
      if (value === null) bar.removeAttribute("value");
      else bar.value = value;
      bar.hidden = task.status === "failed" || task.status === "skipped";
      bar.setAttribute("aria-label", task.title);
      if (task.percent) bar.setAttribute("aria-valuetext", task.percent);
      else bar.removeAttribute("aria-valuetext");
    }

    tell(name) {
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

    /** Add a row for a task that is new to the list; return whether it was. */
    add(task) {
      const template = this.querySelector("template");
      const rows = [...this.querySelectorAll("ol > li")];
      const shown = rows.map((row) => row.querySelector("task-progress"));
      if (!template || shown.some((element) => element && element.dataset.task === task.id)) {
        return false;
      }
      const limit = Number(this.dataset.limit) || Infinity;
      const place = shown.findIndex((e) => e && e.dataset.enqueued <= task.enqueued_at);
      // Older than all that are shown: it has its place on another page.
      if (place < 0 && rows.length >= limit) return false;
      const row = document.importNode(template.content, true).querySelector("li");
      row.querySelector("task-progress").dataset.task = task.id;
      this.querySelector("ol").insertBefore(row, place < 0 ? null : rows[place]);
      if (rows.length >= limit) rows[rows.length - 1].remove();
      const empty = this.querySelector("[data-empty]");
      if (empty) empty.hidden = true;
      return true;
    }
  }

  customElements.define("task-progress", TaskProgress);
  customElements.define("task-list", TaskList);
})();
