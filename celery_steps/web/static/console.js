// Theme, confirmations, live updates. Every page works without it, but for the live updates.
"use strict";

// -- light and dark ---------------------------------------------------------------------------------------------------

function themeButton() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const tell = () => {
    button.setAttribute("aria-pressed", String(dark()));
    button.setAttribute("aria-label", "Dark theme");
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("steps-theme", root.dataset.theme);
    } catch {
      // No storage: until the next page.
    }
    tell();
  });
  tell();
}

// -- confirmations ----------------------------------------------------------------------------------------------------
// A form with data-confirm is asked about here; without scripts, the server asks.

let asked = null; // the form that the open question is about

function confirmations() {
  const dialog = document.getElementById("confirm");
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.confirm || form.elements.confirmed?.value === "yes") return;
    event.preventDefault();
    document.getElementById("confirm-text").textContent = form.dataset.confirm;
    dialog.returnValue = "no";
    asked = { form, button: event.submitter };
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.open || !asked) return; // told late: the next question is open already
    const { form, button } = asked;
    asked = null;
    if (dialog.returnValue !== "yes") return;
    form.elements.confirmed.value = "yes";
    form.requestSubmit(button);
  });
}

// -- live updates -----------------------------------------------------------------------------------------------------
// The server says that something changed; the page is asked for again, and each element with data-live and an id is put in
// the place of the one that is shown, if it differs. What is open stays open, what has the focus keeps it. While a question is
// open nothing is replaced: the form that it is about would be gone, and with it the answer.
// Afterwards the document gets the event "steps:refreshed".

function live() {
  const url = document.body.dataset.liveUrl;
  if (!url || !window.EventSource) return;
  const sign = document.getElementById("live");
  const say = (text, lost = false) => {
    if (sign.textContent !== text) sign.textContent = text;
    sign.classList.toggle("lost", lost);
    sign.hidden = !text;
  };
  let busy = false;
  let again = false; // asked for, and not done yet
  let timer = 0;
  let earliest = 0;
  function refreshSoon() {
    again = true;
    if (busy || timer || document.hidden) return;
    timer = setTimeout(refresh, Math.max(0, earliest - Date.now()));
  }
  async function refresh() {
    const begun = Date.now();
    timer = 0;
    again = false;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.ok) {
        replaceParts(new DOMParser().parseFromString(await answer.text(), "text/html"));
        say("live");
      } else {
        say(`not live: the server answered ${answer.status}`, true);
      }
    } catch {
      say("not live: the server cannot be reached", true);
    } finally {
      busy = false;
      // A store in which much happens would have us ask without end, and a page that costs much is asked for less often.
      earliest = Date.now() + Math.min(5000, Math.max(1000, 4 * (Date.now() - begun)));
      if (again) refreshSoon();
    }
  }
  // "5 s ago" grows old also where nothing happens.
  setInterval(() => Date.now() > earliest + 30000 && refreshSoon(), 30000);
  document.addEventListener("visibilitychange", () => again && refreshSoon());
  const dialog = document.getElementById("confirm");
  dialog.addEventListener("close", () => dialog.returnValue === "yes" || refreshSoon()); // after a yes, the page is left
  const source = new EventSource(`${url}?since=${encodeURIComponent(document.body.dataset.version || "")}`);
  source.addEventListener("open", () => say("live"));
  source.addEventListener("changed", refreshSoon);
  source.addEventListener("gone", (event) => {
    source.close();
    say(JSON.parse(event.data).text, true);
  });
  source.addEventListener("trouble", (event) => say(`not live: ${JSON.parse(event.data).text}`, true));
  source.addEventListener("error", () => {
    say(source.readyState === EventSource.CLOSED ? "not live: reload the page" : "reconnecting…", true);
  });
  addEventListener("pagehide", () => source.close());
}

function replaceParts(fresh) {
  if (asked) return;
  for (const old of document.querySelectorAll("[data-live][id]")) {
    const next = fresh.getElementById(old.id);
    if (!next) continue;
    keepState(old, next);
    if (next.isEqualNode(old)) continue;
    if (old.dataset.live === "steady" && next.dataset.live === "steady" && !globalThis.stepsSteady(old, next)) continue;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    const typing = focused && focused.matches("input, textarea, select");
    if (typing) continue; // nothing changes under somebody's hands
    old.replaceWith(document.adoptNode(next));
    if (focused?.id) document.getElementById(focused.id)?.focus({ preventScroll: true });
  }
  document.dispatchEvent(new CustomEvent("steps:refreshed"));
}

function keepState(old, next) {
  for (const details of old.querySelectorAll("details[id]")) {
    const twin = next.querySelector(`#${CSS.escape(details.id)}`);
    if (twin) twin.open = details.open;
  }
}

themeButton();
confirmations();
live();
