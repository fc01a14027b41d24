// All pages: the token of a link, the time on an item, drafts, the pause, and forms that are sent once.
const byId = (id) => document.getElementById(id);
const IDLE = 60_000; // milliseconds without a key, a pointer or scrolling, after which time is not counted
const DRAFT = "draft ";
let left = false; // whether the labeler has left: then nothing typed is kept

document.documentElement.classList.add("js");

// Tells a screen reader what has changed.
export function say(text) {
  const place = byId("said");
  if (place) place.textContent = text;
}

// The token stands behind the # of a link, which no server log and no Referer holds.
function takeToken(field) {
  const token = decodeURIComponent(location.hash.slice(1));
  if (!token) return;
  field.value = token;
  history.replaceState(null, "", location.pathname);
}

function forgetDrafts(but) {
  for (const key of Object.keys(sessionStorage)) {
    if (key.startsWith(DRAFT) && key !== but) sessionStorage.removeItem(key);
  }
}

// What is typed survives a reload, an expired session and a refused answer: it stays in this tab.
function keepDraft(form, clock) {
  const key = DRAFT + form.elements.assignment.value;
  const found = JSON.parse(sessionStorage.getItem(key) ?? "null");
  if (found) {
    for (const field of form.elements) {
      if (!field.name || field.type === "hidden") continue;
      const values = found.fields[field.name] ?? [];
      if (field.type === "radio" || field.type === "checkbox") field.checked = values.includes(field.value);
      else field.value = values[0] ?? "";
    }
    clock.spent = found.spent;
  }
  const keep = () => {
    const fields = {};
    for (const [name, value] of new FormData(form)) (fields[name] ??= []).push(value);
    const draft = JSON.stringify({ fields, spent: clock.spent });
    try {
      sessionStorage.setItem(key, draft);
    } catch {
      forgetDrafts(key); // the tab's storage is full: of other items, which may be saved by now
      sessionStorage.setItem(key, draft);
    }
  };
  let typed = Boolean(found);
  form.addEventListener("input", () => {
    typed = true;
    keep();
  });
  addEventListener("pagehide", () => typed && !left && keep());
}

// Counts the time in which the page is seen and used.
function countTime(clock) {
  let last = performance.now();
  let used = last;
  const use = () => (used = performance.now());
  for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "input"]) {
    addEventListener(kind, use, { passive: true, capture: true });
  }
  const tick = () => {
    const now = performance.now();
    const counts = !document.hidden && !byId("paused")?.open && now - used < IDLE;
    if (counts) clock.spent += Math.min(now - last, 2_000); // not the hours of a machine asleep
    last = now;
    const seconds = Math.floor(clock.spent / 1000);
    byId("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    byId("seconds").value = seconds;
  };
  tick();
  setInterval(tick, 1_000);
}

function sendOnce(form) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
  addEventListener("pageshow", () => delete form.dataset.sent); // back from the next page
}

// Enter goes from a text to the next one; `after` is what follows the last.
export function steps(after) {
  const stops = [...document.querySelectorAll(".stop")];
  return (from, back) => {
    const next = stops.indexOf(from) + (back ? -1 : 1);
    const to = next >= stops.length ? after() : stops[Math.max(next, 0)];
    to.focus();
    to.scrollIntoView({ block: "nearest" });
  };
}

function openItem(form) {
  const clock = { spent: 0 };
  keepDraft(form, clock);
  countTime(clock);
  byId("pause").addEventListener("click", () => byId("paused").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !byId("paused").open) {
      event.preventDefault();
      form.requestSubmit(byId("save"));
    }
  });
  const step = steps(() => byId("save"));
  for (const text of document.querySelectorAll(".asked .stop")) {
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      step(text, event.shiftKey);
    });
  }
  const first = byId("problem") ?? document.querySelector(".stop");
  if (!location.hash) first.focus({ preventScroll: true });
}

if (byId("token")) takeToken(byId("token"));
byId("leave")?.form.addEventListener("submit", () => {
  left = true;
  forgetDrafts();
});
for (const form of document.querySelectorAll("form[method=post]")) sendOnce(form);
if (byId("answer")) openItem(byId("answer"));
