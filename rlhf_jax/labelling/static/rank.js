// Ranking by dragging and by keys. The fields rank-i hold the ranks: this file only writes and shows them.
import { say, steps } from "./label.js";

const board = document.getElementById("board");
const rows = [...board.querySelectorAll(".row")]; // in the order in which the outputs are shown
const fieldOf = (row) => row.querySelector("input");
const handleOf = (row) => row.querySelector(".handle");
const letterOf = (row) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[row.dataset.place];

function rankOf(row) {
  const rank = Number(fieldOf(row).value);
  return Number.isInteger(rank) && rank >= 1 && rank <= rows.length ? rank : null;
}

// The ranked rows, best first; a group of several is a tie.
function grouped(without) {
  const ranks = [...new Set(rows.map(rankOf))].filter((rank) => rank !== null).sort((a, b) => a - b);
  const groups = ranks.map((rank) => rows.filter((row) => row !== without && rankOf(row) === rank));
  return groups.filter((group) => group.length);
}

function make(tag, kind, ...children) {
  const element = document.createElement(tag);
  element.className = kind;
  element.append(...children);
  return element;
}

function told(row) {
  const rank = rankOf(row);
  if (rank === null) return `Output ${letterOf(row)}, not ranked`;
  const others = rows.filter((other) => other !== row && rankOf(other) === rank).map(letterOf);
  return `Output ${letterOf(row)}, rank ${rank}` + (others.length ? `, tied with ${others.join(", ")}` : "");
}

function drawnTier(group) {
  const rank = rankOf(group[0]);
  const tier = make("li", "tier", make("span", "place", rank), make("ul", "rows", ...group));
  tier.classList.toggle("tied", group.length > 1);
  tier.setAttribute("aria-label", `Rank ${rank}`);
  return tier;
}

function draw() {
  const focused = board.contains(document.activeElement) ? document.activeElement : null;
  const groups = grouped();
  const loose = rows.filter((row) => rankOf(row) === null);
  const tiers = make("ol", "tiers", ...groups.map(drawnTier));
  const shown = [tiers];
  if (loose.length) {
    const about = groups.length ? "Drop the next output here." : "Drop the best output here.";
    const empty = make("p", "tier empty soft", about);
    shown.push(empty, make("div", "loose", make("p", "", "Not ranked yet"), make("ul", "rows", ...loose)));
  }
  board.replaceChildren(...shown);
  for (const row of rows) handleOf(row).setAttribute("aria-label", told(row));
  focused?.focus();
}

// Writes ranks into the fields; `changed` is told to a screen reader.
function write(changed, rankFor) {
  for (const row of rows) fieldOf(row).value = rankFor(row) ?? "";
  fieldOf(changed).dispatchEvent(new Event("input", { bubbles: true }));
  say(told(changed));
}

const setRank = (row, rank) => write(row, (other) => (other === row ? rank : rankOf(other)));

function arrange(changed, groups) {
  const ranks = new Map(groups.flatMap((group, at) => group.map((row) => [row, at + 1])));
  write(changed, (row) => ranks.get(row));
}

// Half a rank up or down: out of a tie, or into one with the neighbour.
function move(row, up) {
  const groups = grouped();
  const at = groups.findIndex((group) => group.includes(row));
  if (at < 0) return arrange(row, [...groups, [row]]);
  const tied = groups[at].length > 1;
  const rest = groups[at].filter((other) => other !== row);
  if (tied) groups.splice(at, 1, ...(up ? [[row], rest] : [rest, [row]]));
  else {
    const other = groups[at + (up ? -1 : 1)];
    if (!other) return;
    other.push(row);
    groups.splice(at, 1);
  }
  arrange(row, groups);
}

// Where a row would land that is held at height y: [element to mark, class, groups after the drop].
function landing(row, y) {
  const others = grouped(row);
  const empty = board.querySelector(".empty");
  if (empty && y >= empty.getBoundingClientRect().bottom) {
    return [board.querySelector(".loose"), "onto", others];
  }
  const tiers = [...board.querySelectorAll("li.tier")].filter((tier) =>
    [...tier.querySelectorAll(".row")].some((other) => other !== row),
  );
  for (const [at, tier] of tiers.entries()) {
    const { top, height } = tier.getBoundingClientRect();
    if (y < top + height / 4) return [tier, "before", others.toSpliced(at, 0, [row])];
    if (y <= top + (3 * height) / 4) return [tier, "onto", others.with(at, [...others[at], row])];
  }
  return [empty ?? tiers.at(-1), empty ? "onto" : "after", [...others, [row]]];
}

function unmark() {
  for (const element of board.querySelectorAll(".before, .onto, .after")) {
    element.classList.remove("before", "onto", "after");
  }
}

const column = document.querySelector(".order");
const scrolled = () => scrollY + column.scrollTop;
let held = null; // the row in the hand: {row, x, y, scroll, lastX, lastY, moved}
let justDragged = false; // the click that ends a drag chooses nothing

function follow() {
  if (!held?.moved) return;
  const { row, y, scroll, lastY } = held;
  const edge = lastY < 50 ? -8 : lastY > innerHeight - 50 ? 8 : 0;
  const before = column.scrollTop;
  column.scrollBy(0, edge);
  if (column.scrollTop === before) scrollBy(0, edge); // the column is at its end, or does not scroll
  row.style.transform = `translateY(${lastY - y + scrolled() - scroll}px)`;
  unmark();
  const [mark, kind] = landing(row, lastY);
  mark?.classList.add(kind);
  held.frame = requestAnimationFrame(follow);
}

function letGo(dropped) {
  if (!held) return;
  const { row, lastY, moved, frame } = held;
  cancelAnimationFrame(frame);
  const groups = moved && dropped ? landing(row, lastY)[2] : null;
  held = null;
  justDragged = moved;
  setTimeout(() => (justDragged = false));
  row.classList.remove("dragged");
  row.style.transform = "";
  unmark();
  if (groups) arrange(row, groups);
}

function take(row, event) {
  const byFinger = event.pointerType === "touch" && !event.target.closest(".handle"); // it scrolls the page
  if (held || event.button !== 0 || byFinger || event.target === fieldOf(row)) return;
  const { clientX: x, clientY: y } = event;
  held = { row, x, y, lastX: x, lastY: y, scroll: scrolled(), moved: false };
}

function drag(event) {
  if (!held) return;
  held.lastX = event.clientX;
  held.lastY = event.clientY;
  if (held.moved || Math.hypot(held.lastX - held.x, held.lastY - held.y) < 5) return;
  held.moved = true;
  held.row.classList.add("dragged");
  held.row.setPointerCapture(event.pointerId);
  follow();
}

const focusRow = (row) => handleOf(row).focus();
const step = steps(() => handleOf(board.querySelector(".row")));

function keyOfRow(row, event) {
  const inBoard = [...board.querySelectorAll(".row")];
  const at = inBoard.indexOf(row);
  const down = event.key === "ArrowDown";
  if (down || event.key === "ArrowUp") {
    if (event.altKey) move(row, !down);
    else focusRow(inBoard[at + (down ? 1 : -1)] ?? row);
    return true;
  }
  if (event.key === "Enter") {
    if (!event.shiftKey && at + 1 === rows.length) document.getElementById("save").focus();
    else if (event.shiftKey && at === 0) [...document.querySelectorAll(".stop")].at(-1).focus();
    else focusRow(inBoard[at + (event.shiftKey ? -1 : 1)]);
    return true;
  }
  if (event.target === fieldOf(row) || event.altKey) return false;
  if (event.key === "Delete" || event.key === "Backspace") setRank(row, null);
  else if (/^[1-9]$/.test(event.key) && Number(event.key) <= rows.length) {
    setRank(row, Number(event.key));
    const loose = rows.filter((other) => rankOf(other) === null);
    const next = loose.find((other) => rows.indexOf(other) > rows.indexOf(row)) ?? loose[0];
    if (next) focusRow(next);
  } else return false;
  return true;
}

function keyOfOutput(output, event) {
  const { place } = output.dataset;
  const letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[place];
  if (event.altKey) return false;
  if (event.key === "Enter") {
    step(output.querySelector(".stop"), event.shiftKey);
    return true;
  }
  const field = [...output.querySelectorAll("input")].find(
    (input) => (input.type === "radio" ? input.value : input.dataset.key) === event.key,
  );
  if (!field) return false;
  field.checked = field.type === "radio" || !field.checked;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  const flag = field.parentElement.firstChild.nextSibling.textContent.trim();
  say(`Output ${letter}: ` + (field.type === "radio" ? `score ${field.value}` : `${flag}, ${field.checked ? "yes" : "no"}`));
  return true;
}

function onKeys(elements, used) {
  for (const element of elements) {
    element.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.isComposing) return;
      if (used(element, event)) event.preventDefault();
    });
  }
}

// A click or a tap puts an output at the end of the ranking.
function choose(row) {
  if (!justDragged && rankOf(row) === null) arrange(row, [...grouped(), [row]]);
}

onKeys(rows, keyOfRow);
onKeys(document.querySelectorAll(".output"), keyOfOutput);
for (const row of rows) {
  row.addEventListener("pointerdown", (event) => take(row, event));
  handleOf(row).addEventListener("click", () => choose(row));
}
document.addEventListener("pointermove", drag);
document.addEventListener("pointerup", () => letGo(true));
document.addEventListener("pointercancel", () => letGo(false));
document.addEventListener("keydown", (event) => event.key === "Escape" && letGo(false));
board.addEventListener("input", draw);
draw();
