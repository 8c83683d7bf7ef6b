// A run's page: one view at a time, links to steps, what is new said aloud. Without it the views stand below each other.
"use strict";

{
  const VIEWS = ["list", "graph", "timeline"];
  const root = document.documentElement;

  const asked = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    if (VIEWS.includes(id)) return id;
    return id.startsWith("step-") || id === "log" ? "list" : null;
  };

  const show = (view) => {
    root.dataset.view = view;
    for (const name of VIEWS) {
      const link = document.getElementById(`to-${name}`);
      if (name === view) link?.setAttribute("aria-current", "true");
      else link?.removeAttribute("aria-current");
    }
  };

  // The step, or the log, that the address names: opened, and under the reader's eyes.
  const reach = () => {
    const id = decodeURIComponent(location.hash.slice(1));
    const target = asked() === "list" && id !== "list" ? document.getElementById(id) : null;
    if (!target) return;
    target.open = true;
    target.querySelector("summary").focus({ preventScroll: true });
    target.scrollIntoView({ block: "start" });
  };

  const views = () => {
    for (const name of VIEWS) {
      document.getElementById(`to-${name}`)?.addEventListener("click", (event) => {
        event.preventDefault(); // the page stays where it is
        if (location.hash !== `#${name}`) history.pushState(null, "", `#${name}`);
        show(name);
      });
    }
    addEventListener("hashchange", () => {
      show(asked() || root.dataset.view);
      reach();
    });
    // A second click on the same node changes no hash.
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a[href^='#step-']");
      if (!link || link.getAttribute("href") !== location.hash) return;
      event.preventDefault();
      show("list");
      reach();
    });
    show(root.dataset.view);
    reach();
  };

  // In the pictures the arrow keys go from node to node, as Tab does.
  const arrows = () => {
    const way = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
    document.addEventListener("keydown", (event) => {
      const link = event.target.closest(".flow a, .bars a");
      if (!link || !way[event.key] || event.altKey || event.ctrlKey || event.metaKey) return;
      const links = [...link.closest(".flow, .bars").querySelectorAll("a")];
      const next = links[links.indexOf(link) + way[event.key]];
      if (!next) return;
      event.preventDefault();
      next.focus();
      next.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  };

  const news = () => {
    const told = () => document.getElementById("status").textContent.trim();
    let before = told();
    document.addEventListener("steps:refreshed", () => {
      show(root.dataset.view);
      if (told() === before) return;
      before = told();
      document.getElementById("news").textContent = `The run is ${before} now.`;
    });
  };

  root.dataset.view = asked() || "list";
  document.addEventListener("DOMContentLoaded", () => {
    views();
    arrows();
    news();
  });
}
