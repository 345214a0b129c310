"use strict";
const COLORS = { red: "#d22", orange: "#f80", yellow: "#fd0", green: "#2a3", blue: "#25d", purple: "#83c", pink: "#f7b", brown: "#852", black: "#000", white: "#fff", gray: "#888" };
const LARGEST = 12 * 1024 * 1024;
const at = (id) => document.getElementById(id);
const [text, status, results] = [at("text"), at("status"), at("results")];
let color = "", like = null, picture = null, waiting = 0, asked = 0, running = null;

for (const [name, value] of Object.entries(COLORS)) {
  const [chip, dot] = [document.createElement("button"), document.createElement("i")];
  chip.type = "button";
  dot.style.background = value;
  chip.append(dot, name);
  chip.onclick = () => { color = color === name ? "" : name; ask(true); };
  at("colors").append(chip);
}

function words() {
  const said = text.value.trim();
  if (!color) return said;
  if (!said || /^without\s/i.test(said)) return `${color} ${said}`.trim();
  return `a ${color} ${said.replace(/^(an?|the)\s+/i, "")}`;
}

function show() {
  for (const chip of at("colors").children) chip.setAttribute("aria-pressed", String(chip.textContent === color));
  at("like").hidden = like === null && picture === null;
  at("likesaid").textContent = picture ? "your picture" : "more like this";
  document.title = [words(), picture || like !== null ? "a picture" : ""].filter(Boolean).join(" + ") || "Search pictures";
  if (picture) at("likeimage").src = `data:${picture.kind};base64,${picture.data}`;
  else if (like !== null) at("likeimage").src = `/thumbnails/${like}`;
}

async function ask(push) {
  clearTimeout(waiting);
  show();
  const link = new URLSearchParams();
  if (text.value) link.set("q", text.value);
  if (color) link.set("c", color);
  if (like !== null) link.set("like", like);
  const address = link.size ? `?${link}` : location.pathname;
  if (address !== (location.search || location.pathname)) history[push ? "pushState" : "replaceState"](null, "", address);
  const query = {};
  if (words()) query.text = words();
  if (like !== null) query.like = like;
  if (picture) query.picture = picture.data;
  const mine = ++asked;
  running?.abort();
  if (!Object.keys(query).length) { results.replaceChildren(); status.textContent = ""; return; }
  running = new AbortController();
  results.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch("/api/search", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(query), signal: running.signal });
    const found = await reply.json();
    if (mine !== asked) return;
    if (!reply.ok) throw new Error(found.error);
    draw(found);
  } catch (error) {
    if (mine === asked) { results.replaceChildren(); status.textContent = error.message; }
  } finally {
    if (mine === asked) results.setAttribute("aria-busy", "false");
  }
}

function draw(found) {
  const both = new Set(found.both);
  results.className = found.models.length > 1 ? "two" : "";
  results.replaceChildren(...found.models.map((one, number) => {
    const [section, title, list] = ["section", "h2", "ol"].map((tag) => document.createElement(tag));
    title.id = `model${number}`;
    title.textContent = one.model.split("/").slice(-2).join("/");
    title.title = one.model;
    section.setAttribute("aria-labelledby", title.id);
    list.append(...one.results.map((result) => card(result, both.has(result.number))));
    section.append(title, list);
    return section;
  }));
  const count = found.models[0].results.length;
  const shared = found.overlap === null ? "" : ` by each model; ${found.both.length} found by both (overlap@${count} ${Math.round(100 * found.overlap)}%), marked ✓`;
  status.textContent = count ? `${count} pictures${shared}` : "The index is empty.";
}

function card(result, both) {
  const [item, button, image, name, cosine] = ["li", "button", "img", "span", "small"].map((tag) => document.createElement(tag));
  item.className = both ? "both" : "";
  button.type = "button";
  button.title = `${result.name} (${result.width} × ${result.height})`;
  image.src = `/thumbnails/${result.number}`;
  image.alt = both ? `${result.name}, found by both` : result.name;
  name.textContent = result.name.split("/").at(-1);
  cosine.textContent = result.cosine.toFixed(3);
  for (const said of [name, cosine]) said.setAttribute("aria-hidden", "true");
  button.append(image, name, cosine);
  button.onclick = () => { like = result.number; picture = null; text.value = ""; color = ""; ask(true); text.focus(); };
  item.append(button);
  return item;
}

function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) { status.textContent = `${file.name} is not a picture.`; return; }
  if (file.size > LARGEST) { status.textContent = "The picture is too large: 12 MB at most."; return; }
  const reader = new FileReader();
  reader.onload = () => {
    picture = { kind: file.type, data: reader.result.slice(reader.result.indexOf(",") + 1) };
    like = null;
    ask(true);
  };
  reader.readAsDataURL(file);
}

function read() {
  const link = new URLSearchParams(location.search);
  text.value = link.get("q") || "";
  color = Object.hasOwn(COLORS, link.get("c")) ? link.get("c") : "";
  like = /^\d{1,15}$/.test(link.get("like")) ? Number(link.get("like")) : null;
  picture = null;
  ask(false);
}

text.oninput = () => { clearTimeout(waiting); waiting = setTimeout(() => ask(false), 150); };
at("form").onsubmit = (event) => { event.preventDefault(); ask(true); };
at("picture").onchange = (event) => { take(event.target.files[0]); event.target.value = ""; };
at("clear").onclick = () => { like = picture = null; ask(true); text.focus(); };
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = () => document.body.classList.remove("over");
document.ondrop = (event) => { event.preventDefault(); document.body.classList.remove("over"); take(event.dataTransfer.files[0]); };
document.onpaste = (event) => { if (event.clipboardData.files.length) { event.preventDefault(); take(event.clipboardData.files[0]); } };
document.onkeydown = (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const cards = [...results.querySelectorAll("li button")], here = cards.indexOf(document.activeElement);
  if (event.key === "/" && document.activeElement !== text) { event.preventDefault(); text.focus(); text.select(); }
  else if (event.key === "Escape" && document.activeElement !== text) { event.preventDefault(); text.focus(); }
  else if (event.key === "ArrowDown" && document.activeElement === text && cards.length) { event.preventDefault(); cards[0].focus(); }
  else if (here >= 0 && event.key.startsWith("Arrow")) {
    event.preventDefault();
    const top = cards[here].getBoundingClientRect().top;
    const row = cards.filter((one) => one.getBoundingClientRect().top === top && one.closest("ol") === cards[here].closest("ol")).length;
    const next = here + { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row }[event.key];
    (cards[next] || (next < 0 ? text : cards[here])).focus();
  }
};
window.onpopstate = read;
read();
