/* A clock that a test moves, and a server that answers at once, for the script of the pages. */
(() => {
  const realTimeout = window.setTimeout.bind(window);
  const timers = new Map();
  let now = 0;
  let last = 0;

  const settle = () => new Promise((resolve) => realTimeout(resolve, 0));

  performance.now = () => now;
  window.setTimeout = (callback, delay = 0) => {
    last += 1;
    timers.set(last, { callback, at: now + delay });
    return last;
  };
  window.clearTimeout = (id) => timers.delete(id);

  window.server = { asked: [], streams: [], tasks: [], hints: {}, viewers: ["a"], late: [] };
  window.fetch = async (url) => {
    server.asked.push([now / 1000, new URL(url).searchParams.getAll("id")]);
    const viewer = server.viewers[server.asked.length % server.viewers.length];
    const found = { tasks: server.tasks, cursor: "1", viewer, hints: server.hints };
    const answer = { ok: true, status: 200, json: async () => found, ...server.answer };
    // What is under way is not aborted, as if it had been too late for that.
    return server.isSlow ? new Promise((resolve) => server.late.push(() => resolve(answer))) : answer;
  };
  window.EventSource = class {
    static CLOSED = 2;

    constructor(url) {
      this.ids = new URL(url).searchParams.getAll("id");
      this.opened = now / 1000;
      server.streams.push(this);
      if (server.isSilent) return;
      if (server.isFull) {
        this.readyState = EventSource.CLOSED;
        realTimeout(() => this.onerror && this.onerror(), 0);
        return;
      }
      realTimeout(() => this.onmessage({ data: '{"tasks": [], "cursor": "1", "viewer": "a"}' }), 0);
    }

    close() {
      this.closed = now / 1000;
    }
  };

  /** Let so many seconds pass. */
  window.pass = async (seconds) => {
    const end = now + seconds * 1000;
    for (;;) {
      await settle();
      const [id, due] = [...timers].sort((a, b) => a[1].at - b[1].at)[0] || [];
      if (!due || due.at > end) break;
      timers.delete(id);
      now = Math.max(now, due.at);
      due.callback();
      await settle();
    }
    now = end;
  };
})();
