// Puts the panels that the server sends in the place of the old ones. Without this script the page stands still.
"use strict";
(() => {
  const live = document.getElementById("live");
  const pause = document.getElementById("pause");
  const say = document.getElementById("say");
  const body = document.body;
  if ("still" in body.dataset || !window.EventSource) return;

  let source = null;
  let paused = false;
  let held = {}; // panels in which the user selects text; they change when that is over
  let level = "";

  const show = (text, on) => { live.textContent = text; live.classList.toggle("on", on); };

  // replace keeps what the user has opened, and the focus.
  const replace = (key, html) => {
    const panel = document.getElementById(key);
    if (!panel) return;
    const open = new Set([...panel.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const focused = panel.contains(document.activeElement) ? document.activeElement : null;
    const details = focused && focused.closest("details");
    const target = focused && focused.dataset.opens;
    panel.innerHTML = html;
    for (const d of panel.querySelectorAll("details")) {
      d.open = open.has(d.dataset.key);
      if (details && d.dataset.key === details.dataset.key) d.querySelector("summary").focus({ preventScroll: true });
    }
    if (target) {
      const again = panel.querySelector(`[data-opens="${CSS.escape(target)}"]`);
      if (again) again.focus({ preventScroll: true });
    }
  };

  const selects = (key) => {
    const s = document.getSelection();
    const panel = document.getElementById(key);
    return s && !s.isCollapsed && panel && panel.contains(s.anchorNode);
  };

  const update = (message) => {
    const sent = JSON.parse(message.data);
    document.title = sent.title;
    Object.assign(held, sent.panels);
    for (const [key, html] of Object.entries(held)) {
      if (selects(key)) continue;
      replace(key, html);
      delete held[key];
    }
    show("live", true);
    const now = document.querySelector("#head .level");
    if (now && now.textContent !== level) {
      if (level) say.textContent = now.parentElement.textContent;
      level = now.textContent;
    }
    if (level === "closed") leave("the pool is closed"); // nothing comes after that
  };

  const connect = () => {
    if (source || paused) return;
    source = new EventSource("events?pool=" + encodeURIComponent(body.dataset.pool));
    source.onmessage = update;
    source.onerror = () => show(source && source.readyState === EventSource.CLOSED ? "not live: reload the page" : "reconnecting…", false);
  };
  const leave = (text) => {
    if (source) source.close();
    source = null;
    show(text, false);
  };

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) leave("paused at " + new Date().toLocaleTimeString());
    else connect();
  });
  // A page that nobody sees asks for nothing.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) leave("resting");
    else connect();
  });
  // A cell opens its holder.
  document.addEventListener("click", (e) => {
    const link = e.target.closest && e.target.closest("a[data-opens]");
    const details = link && document.querySelector(`details[data-key="${CSS.escape(link.dataset.opens)}"]`);
    if (!details) return;
    e.preventDefault();
    details.open = true;
    details.scrollIntoView({ block: "nearest" });
    details.querySelector(".more").focus(); // the same key press would shut a summary again
  });
  const level0 = document.querySelector("#head .level");
  level = level0 ? level0.textContent : "";
  if (!document.hidden) connect();
})();
