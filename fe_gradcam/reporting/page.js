"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const page = JSON.parse($("page").textContent);
  const SHOWN = 96; // cards before "Show more"
  const THUMB = 256; // the longest side of a canvas outside the dialog, in pixels
  const STEP = 400; // milliseconds of an epoch while playing
  const TARGETS = { pred: "inferred class", label: "true class" };

  /* Elements and words. Strings become text nodes, so names from outside stay text. */

  function fill(node, props, children) {
    for (const [key, value] of Object.entries(props)) {
      if (key === "style") Object.assign(node.style, value);
      else if (key in node && !(node instanceof SVGElement)) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const make = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);
  const svg = (tag, props = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
  const text = (tag, textContent, props = {}) => make(tag, { textContent, ...props });
  const known = (value) => value !== null && value !== undefined;
  const minus = (words) => words.replace("-", "−");
  const percent = (part, digits = 1) => (known(part) ? `${(100 * part).toFixed(digits)}%` : "–");
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const spaced = (key) => key.replaceAll("_", " ");
  const TURNS = /[\u202a-\u202e\u2066-\u2069]/g; // would have the number behind a name read backwards
  const nameOf = (id) => (page.class_names[id] ?? (id < 0 ? "no class" : `class ${id}`)).replace(TURNS, "");

  function figure(value) {
    if (!known(value)) return "–";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e6) return minus(String(value));
    return minus(size >= 1e6 || size < 5e-4 ? value.toExponential(1) : value.toFixed(size < 10 ? 3 : 1));
  }

  function options(select, pairs, chosen) {
    select.replaceChildren(...pairs.map(([value, words]) => text("option", words, { value })));
    select.value = chosen;
  }

  function table(head, rows) {
    const cell = (tag, one, k, props) => text(tag, one, { className: head[k].startsWith(">") ? "figure" : "", ...props });
    const row = (cells) => make("tr", {}, ...cells.map((one, k) => (k ? cell("td", one, k) : cell("th", one, k, { scope: "row" }))));
    const heads = head.map((one, k) => cell("th", one.replace(">", ""), k, { scope: "col" }));
    return make("table", {}, head.some(Boolean) ? make("thead", {}, make("tr", {}, ...heads)) : null, make("tbody", {}, ...rows.map(row)));
  }

  /* Heat: from bytes to values, as fe_gradcam.scaling does it, to levels, to colours. */

  const bytes = (base64) => Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
  const luts = Object.fromEntries(Object.entries(page.colormaps).map(([name, data]) => [name, bytes(data)]));
  const signedLut = bytes(page.signed);
  let decoded = 0;

  /** The signed map of a row, (h * w): a byte of magnitude for each place, then a bit for each sign. */
  function signedMap(heat, row) {
    const raw = atob(heat.data.substr(row * heat.stride, heat.stride)), map = new Float32Array(heat.h * heat.w);
    for (let k = 0; k < map.length; k++) {
      const negative = (raw.charCodeAt(map.length + (k >> 3)) >> (7 - (k & 7))) & 1;
      map[k] = ((negative ? -heat.down[row] : heat.up[row]) * raw.charCodeAt(k)) / 255;
    }
    document.documentElement.dataset.decoded = ++decoded;
    return map;
  }

  /** For each of `many` pixels the two of `few` places that it lies between, and its distance from the first. */
  function between(few, many) {
    return Array.from({ length: many }, (_, k) => {
      const at = Math.max(((k + 0.5) * few) / many - 0.5, 0), first = Math.min(Math.floor(at), few - 1);
      return [first, Math.min(first + 1, few - 1), at - first];
    });
  }

  /** Bilinear with half-pixel centres and repeated borders: torch's interpolate without align_corners. */
  function resized(map, [h, w], [height, width]) {
    if (h === height && w === width) return map;
    const wide = new Float32Array(h * width), result = new Float32Array(height * width);
    between(w, width).forEach(([left, right, part], x) => {
      for (let y = 0; y < h; y++) wide[y * width + x] = map[y * w + left] * (1 - part) + map[y * w + right] * part;
    });
    between(h, height).forEach(([above, below, part], y) => {
      for (let x = 0; x < width; x++) {
        result[y * width + x] = wide[above * width + x] * (1 - part) + wide[below * width + x] * part;
      }
    });
    return result;
  }

  /** The heatmap of a row at a size: within [0, 1], or for the scaling "none" within [-1, 1]. */
  function values(heat, row, size) {
    const map = signedMap(heat, row), unit = heat.unit[row] || 1;
    for (let k = 0; k < map.length; k++) {
      if (heat.scaling !== "none" && map[k] < 0) map[k] = 0;
      map[k] /= unit;
    }
    return resized(map, [heat.h, heat.w], size);
  }

  const largestOf = (heat, row) => (heat.scaling === "none" && heat.unit[row]) || Math.max(heat.up[row], heat.down[row]) || 1;
  const levelOf = (value, signed) => Math.min(255, Math.max(0, Math.round(signed ? 127.5 + 127.5 * value : 255 * value)));

  /** The signed map of a row at a size over the largest magnitude, within [-1, 1]. */
  const signedValues = (heat, row, size) =>
    resized(signedMap(heat, row).map((value) => value / largestOf(heat, row)), [heat.h, heat.w], size);

  /** The colour of each level, and how opaque it lies on the picture: the rule of fe_gradcam.drawing.pixels.overlay. */
  function colours(signed, opaque) {
    const lut = signed ? signedLut : luts[state.colormap], all = new Uint8ClampedArray(1024);
    for (let k = 0; k < 256; k++) {
      const strength = signed ? (Math.abs(2 * k - 255) - 1) / 254 : k / 255;
      const weight = opaque || state.alpha === 1 ? 1 : 1 - (1 - state.alpha) ** (2 * strength);
      all.set([...lut.subarray(3 * k, 3 * k + 3), strength < state.threshold ? 0 : 255 * weight], 4 * k);
    }
    return new Uint32Array(all.buffer);
  }

  /** Draws the heat of a row; returns its heatmap, so that words can be found for it. */
  function paint(canvas, heat, row, view, most) {
    const shrink = Math.min(1, most / Math.max(...heat.size)), signed = view === "signed" || heat.scaling === "none";
    const size = heat.size.map((side) => Math.max(1, Math.round(side * shrink)));
    const heatmap = values(heat, row, size), drawn = view === "signed" ? signedValues(heat, row, size) : heatmap;
    [canvas.height, canvas.width] = size;
    const image = new ImageData(size[1], size[0]), pixels = new Uint32Array(image.data.buffer);
    const shades = colours(signed, view !== "both");
    for (let k = 0; k < drawn.length; k++) pixels[k] = shades[levelOf(drawn[k], signed)];
    canvas.getContext("2d").putImageData(image, 0, 0);
    return heatmap;
  }

  /** The box around the hottest place, at least half the maximum; the rule of fe_gradcam.verdicts.places. */
  function placeOf(heat, [height, width]) {
    let top = 0;
    for (let k = 1; k < heat.length; k++) if (heat[k] > heat[top]) top = k;
    if (!(heat[top] > 0)) return null;
    const seen = new Uint8Array(heat.length), open = [top], box = [width, 0, height, 0];
    seen[top] = 1;
    while (open.length) {
      const k = open.pop(), x = k % width, y = (k - x) / width;
      box[0] = Math.min(box[0], x);
      box[1] = Math.max(box[1], x);
      box[2] = Math.min(box[2], y);
      box[3] = Math.max(box[3], y);
      const visit = (one) => { if (!seen[one] && heat[one] >= heat[top] / 2) { seen[one] = 1; open.push(one); } };
      if (x > 0) visit(k - 1);
      if (x < width - 1) visit(k + 1);
      if (y > 0) visit(k - width);
      if (y < height - 1) visit(k + width);
    }
    return { left: box[0], top: box[2], width: box[1] - box[0] + 1, height: box[3] - box[2] + 1 };
  }

  function whereInWords(heat, [height, width]) {
    const box = placeOf(heat, [height, width]);
    if (!box) return "There is no heat: no evidence for this class.";
    const down = (box.top + box.height / 2) / height, across = (box.left + box.width / 2) / width;
    const row = down < 1 / 3 ? "upper" : down > 2 / 3 ? "lower" : "";
    const column = across < 1 / 3 ? "left" : across > 2 / 3 ? "right" : "";
    const where = row && column ? `${row} ${column} corner` : row || column ? `${row || column} edge` : "middle";
    let [all, inside] = [0, 0];
    for (let k = 0; k < heat.length; k++) {
      const x = (k % width) - box.left, y = Math.floor(k / width) - box.top, hot = Math.max(heat[k], 0);
      all += hot;
      if (x >= 0 && x < box.width && y >= 0 && y < box.height) inside += hot;
    }
    const area = (box.width * box.height) / heat.length;
    const spot = `${/edge/.test(where) ? "at" : "in"} the ${where}`, inWords = (part) => percent(part, part < 0.01 ? 1 : 0);
    const share = `${inWords(inside / all)} of it on ${inWords(area)} of the image`;
    if (area >= 0.5) return `The heat is all over the image: ${share}.`;
    return inside < all / 2 ? `The heat is scattered, hottest ${spot}: ${share}.` : `The heat is ${spot}: ${share}.`;
  }

  /* What is shown now. */

  const state = { dataset: 0, epoch: 0, column: 0, view: "both", alpha: page.alpha, threshold: 0, more: SHOWN, colormap: page.colormap };
  const dataset = () => page.datasets[state.dataset];
  const epoch = () => dataset().epochs[state.epoch];
  const ofTraining = () => dataset().epochs.some((one) => one.epoch > 0); // else of a model that was trained before
  const idOf = (image) => String(dataset().images[image].id ?? `image ${image + 1}`);
  const rowOf = (at, image) => (at.images ? at.images.indexOf(image) : image);
  const verdictOf = (id) => (known(id) && epoch().verdicts.find((one) => one.class_id === id)) || null;

  function columnName(one, all) {
    const target = TARGETS[one.target] || (/^\d+$/.test(one.target) ? `class ${one.target}` : one.target);
    const layers = new Set(all.map((other) => other.layer)).size > 1 && one.layer ? `, ${one.layer}` : "";
    return `${spaced(one.method)}, ${target}${layers}`;
  }

  /** The heat of an image in a column, and its row; where the inferred class is the true one, heat is stored once. */
  function heatOf(at, column, row) {
    if (!column.shown) return [column.heat, row];
    if (column.shown[row]) return [column.heat, column.shown.slice(0, row).filter(Boolean).length];
    const whole = at.columns.filter((one) => !one.shown);
    return [(whole.find((one) => one.method === column.method) || whole[0]).heat, row];
  }

  /** What an epoch says of an image. */
  function factsOf(at, image) {
    const row = rowOf(at, image), { label, also = [] } = dataset().images[image], of = (list) => (list && row >= 0 ? list[row] : null);
    const told = of(at.predictions), right = known(label) && known(told) ? label === told || also.includes(told) : null;
    return { row, label, told, right, confidence: of(at.confidences), true: of(at.true) };
  }

  function toldInWords({ told, confidence, right, label, true: part }) {
    if (!known(told)) return known(label) ? `is ${nameOf(label)}` : "";
    const also = right === false ? `, is ${nameOf(label)}${known(part) ? ` ${percent(part)}` : ""}` : "";
    return `${nameOf(told)}${known(confidence) ? ` ${percent(confidence)}` : ""}${also}`;
  }
  const mark = (right) => (right === null ? "" : right ? "✓ " : "✗ ");

  /** Elements that are drawn only while they are seen, or nearly. */
  class Lazy {
    constructor() {
      this.items = new Map();
      this.watcher = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
        const item = this.items.get(target);
        if (item) item.seen = isIntersecting;
        if (item && isIntersecting) item.draw();
      }), { rootMargin: "150px" });
    }

    set(pairs) {
      const before = this.items;
      this.watcher.disconnect();
      this.items = new Map(pairs.map(([node, draw]) => [node, { draw, seen: before.has(node) && before.get(node).seen }]));
      for (const node of this.items.keys()) this.watcher.observe(node);
    }

    redraw(all = false) {
      for (const item of this.items.values()) if (all || item.seen) item.draw();
    }
  }
  const cards = new Lazy(), classes = new Lazy(), film = new Lazy();

  /** A picture with a canvas over it; `show` draws the heat of a row, or none. */
  function pane(src) {
    const [height, width] = dataset().size, canvas = make("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    const node = make("span", { className: "pane", style: { aspectRatio: `${width} / ${height}` } });
    node.append(...(src ? [make("img", { src, alt: "", decoding: "async" })] : []), canvas);
    node.show = ([heat, row], view, most) => {
      node.dataset.view = !src && view === "both" ? "heat" : view;
      return view === "image" ? null : paint(canvas, heat, row, node.dataset.view, most);
    };
    node.where = (heat) => whereInWords(heat, [canvas.height, canvas.width]);
    return node;
  }

  /* Gallery. */

  const made = new Map(); // cards by image, so that a picture is decoded once
  let inGallery = []; // images, in the order of the gallery

  function cardOf(image) {
    if (made.has(image)) return made.get(image);
    const { src } = dataset().images[image], id = text("span", idOf(image), { className: "id", title: idOf(image) });
    const panes = make("span", { className: "panes" }, pane(src)), told = text("span", "", { className: "told" });
    const card = make("button", { type: "button", className: "card" }, panes, make("span", { className: "caption" }, id, told));
    fill(card, { "data-image": image, onclick: () => openLarge(image) }, []);
    card.say = (where = "") => {
      const facts = factsOf(epoch(), image), verdict = verdictOf(facts.told), wrong = verdict && verdict.group === "wrong";
      const how = { true: ", told rightly", false: ", told wrongly" }[facts.right] || "";
      const judged = wrong ? ` Verdict on ${nameOf(facts.told)}: ${verdict.headline}.` : "";
      told.textContent = mark(facts.right) + toldInWords(facts) + (wrong ? (verdict.accuses ? "\u00a0▲" : "\u00a0△") : "");
      fill(card, { "data-right": facts.right, "aria-label": `${idOf(image)}: ${toldInWords(facts)}${how}. ${where}${judged}` }, []);
    };
    card.update = () => {
      const at = epoch(), columns = state.column === "all" ? at.columns : [at.columns[state.column] || at.columns[0]];
      while (panes.children.length > columns.length) panes.lastChild.remove();
      while (panes.children.length < columns.length) panes.append(pane(src));
      const words = columns.map((column, k) => {
        const heat = panes.children[k].show(heatOf(at, column, rowOf(at, image)), state.view, THUMB);
        return heat ? panes.children[k].where(heat) : "";
      });
      card.say(words[0]);
    };
    made.set(image, card);
    return card;
  }

  /** The images that the filters leave, in the order that is asked for, and how many there are. */
  function chosen() {
    const at = epoch(), all = !at.columns.length ? [] : at.images || dataset().images.map((_, k) => k);
    const facts = new Map(all.map((image) => [image, factsOf(at, image)]));
    const [ofClass, right, verdict, name, sort, from, to] =
      ["of-class", "right", "verdict", "name", "sort", "from", "to"].map((id) => $(id).value.trim());
    const inside = (part) => known(part) && (from === "" || 100 * part >= Number(from)) && (to === "" || 100 * part <= Number(to));
    const left = all.filter((image) => {
      const one = facts.get(image), judged = verdictOf(one.told);
      return (ofClass === "" || one.told === Number(ofClass) || one.label === Number(ofClass))
        && (right === "" || one.right === (right === "right"))
        && (verdict === "" || (judged && judged.group === verdict))
        && ((from === "" && to === "") || inside(one.confidence))
        && idOf(image).toLowerCase().includes(name.toLowerCase());
    });
    const [way, key] = [sort[0], sort.slice(1)];
    const worth = (image) => {
      const one = facts.get(image);
      if (key === "worst") return one.right === false ? -1 - one.confidence : known(one.true) ? one.true : one.confidence;
      return key === "confidence" ? one.confidence : (at.metrics[key.slice(1)] || [])[one.row];
    };
    const rank = (image) => (known(worth(image)) ? (way === "-" ? -1 : 1) * worth(image) : Infinity);
    if (key) left.sort((one, two) => rank(one) - rank(two) || one - two);
    return [left, all.length];
  }

  function showGallery() {
    const [left, of] = chosen(), shown = left.slice(0, state.more).map(cardOf), inside = $("cards").children;
    inGallery = left;
    $("count").textContent = of ? `${left.length} of ${plural(of, "image")}` : "The images of this epoch were not kept.";
    $("more").hidden = left.length <= state.more;
    $("cards").dataset.columns = state.column === "all" ? epoch().columns.length : 1;
    if (shown.length !== inside.length || shown.some((card, k) => card !== inside[k])) {
      $("cards").replaceChildren(...shown);
      cards.set(shown.map((card) => [card, card.update]));
    }
    for (const card of shown) card.say();
    cards.redraw();
  }

  /* One image, large. */

  const large = { image: 0, view: "both", column: 0, at: null };

  function openLarge(image) {
    const view = state.view === "image" ? "both" : state.view, column = state.column === "all" ? 0 : state.column;
    Object.assign(large, { image, view, column, at: null });
    $("large").showModal();
    showLarge();
    $("large").scrollTop = 0;
    const strip = $("large").querySelector(".film"), now = strip && strip.querySelector("[aria-current=true]");
    if (now) strip.scrollLeft = now.offsetLeft - strip.offsetLeft - strip.clientWidth / 2;
    $("large-name").focus();
  }

  /** Makes a pane say the value under the pointer, or under a cross that the arrow keys move. */
  function readable(node, [heat, row], output) {
    const [height, width] = heat.size, heatmap = values(heat, row, heat.size), signed = signedValues(heat, row, heat.size);
    const cross = make("span", { className: "cross", hidden: true }), unit = largestOf(heat, row);
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const within = (at, side) => Math.min(side - 1, Math.max(0, Math.floor(at)));
    const read = (x, y) => {
      const at = large.at = [within(x, width), within(y, height)], k = at[1] * width + at[0];
      cross.hidden = false;
      Object.assign(cross.style, { left: `${(100 * (at[0] + 0.5)) / width}%`, top: `${(100 * (at[1] + 0.5)) / height}%` });
      const [value, most] = [signed[k] * unit, unit].map((one) => minus(one.toPrecision(3)));
      output.textContent = `row ${at[1]}, column ${at[0]}: heat ${minus(heatmap[k].toFixed(3))}, signed ${value} of ±${most}`;
    };
    node.append(cross);
    node.onpointermove = ({ clientX, clientY }) => {
      const box = node.getBoundingClientRect();
      read(((clientX - box.left) / box.width) * width, ((clientY - box.top) / box.height) * height);
    };
    node.onkeydown = (event) => {
      if (!moves[event.key]) return;
      const [x, y] = large.at || [width / 2, height / 2], [right, down] = moves[event.key].map((one) => one * (event.shiftKey ? 10 : 1));
      event.preventDefault();
      read(x + right, y + down);
    };
    fill(node, { tabIndex: 0, role: "application", "data-keep": "pane" }, []);
    if (large.at) read(...large.at);
  }

  function frameOf(image, index, view) {
    const at = dataset().epochs[index], facts = factsOf(at, image), column = at.columns[large.column] || at.columns[0];
    if (facts.row < 0 || !column) return null;
    const small = pane(dataset().images[image].src), words = `epoch ${at.epoch}: ${toldInWords(facts)}`;
    const frame = make("button", { type: "button", title: words, "aria-label": words, "aria-current": String(index === state.epoch),
      "data-keep": `frame ${index}`, onclick: () => moveTo(index) }, small, text("span", `${mark(facts.right)}${at.epoch}`));
    frame.draw = () => small.show(heatOf(at, column, facts.row), view, 96);
    return frame;
  }

  function showLarge() {
    const { image } = large, at = epoch(), facts = factsOf(at, image), { src } = dataset().images[image], dialog = $("large");
    const here = inGallery.indexOf(image), kept = dialog.contains(document.activeElement) ? document.activeElement.dataset.keep : "";
    const button = (words, onclick, disabled = false) => text("button", words, { type: "button", onclick, disabled, "data-keep": words });
    const step = (by) => () => { Object.assign(large, { image: inGallery[here + by], at: null }); showLarge(); };
    const column = at.columns[large.column] || at.columns[0];
    const ofTruth = at.columns.find((one) => one !== column && one.method === column.method && one.target === "label");
    const views = [["image", "image", src], ["heat", "heat", true], ["both", "both", src], ["truth", "true class", ofTruth], ["signed", "signed map", true]]
      .filter(([, , is]) => is);
    if (!views.some(([view]) => view === large.view)) large.view = src ? "both" : "heat";
    const shown = large.view === "truth" ? ofTruth : column, view = large.view === "truth" ? "both" : large.view;
    const big = pane(src), probe = text("output", "The pointer or the arrow keys read values.", { className: "probe" });
    const sentence = text("p", "This image was not explained in this epoch.");
    if (shown && facts.row >= 0) {
      const heat = heatOf(at, shown, facts.row);
      sentence.textContent = whereInWords(big.show(heat, view, Infinity) || values(...heat, heat[0].size), heat[0].size);
      readable(big, heat, probe);
      big.setAttribute("aria-label", `${idOf(image)}: ${toldInWords(facts)}. ${sentence.textContent} The arrow keys read values.`);
    }
    const radio = ([value, words]) => make("label", {}, make("input", { type: "radio", name: "large-view", value, checked: value === large.view,
      "data-keep": `view ${value}`, onchange: () => { large.view = value; showLarge(); } }), words);
    const which = make("select", { "data-keep": "column", onchange: () => { large.column = Number(which.value); showLarge(); } });
    options(which, at.columns.map((one, k) => [k, columnName(one, at.columns)]), Math.max(0, at.columns.indexOf(column)));
    const verdict = verdictOf(facts.told), pairs = [
      ["told", known(facts.told) ? `${nameOf(facts.told)}${known(facts.confidence) ? `, ${percent(facts.confidence)}` : ""}` : null],
      ["is", known(facts.label) ? `${nameOf(facts.label)}${known(facts.true) ? `, ${percent(facts.true)}` : ""}` : null],
      ["so told", facts.right === null ? null : facts.right ? "✓ rightly" : "✗ wrongly"],
      ["verdict", verdict ? `${nameOf(facts.told)}: ${verdict.headline} (${verdict.level})` : null],
      ["heat for", shown && facts.row >= 0 ? nameOf(shown.class_ids[facts.row]) : null],
      ...Object.entries(at.metrics).map(([key, of]) => [spaced(key), figure(of[facts.row])]),
    ].filter(([, value]) => value !== null);
    const frames = ofTraining() ? dataset().epochs.map((_, k) => frameOf(image, k, view)).filter(Boolean) : [];
    const strip = make("div", { className: "film" }, ...frames), scrolled = dialog.querySelector(".film");
    const close = button("Close", () => dialog.close());
    dialog.replaceChildren(
      make("div", { className: "top" }, text("h2", idOf(image), { id: "large-name", tabIndex: -1 }), make("span", { className: "buttons" },
        button("‹ Previous", step(-1), here <= 0), button("Next ›", step(1), here < 0 || here >= inGallery.length - 1), close)),
      sentence,
      make("div", { className: "sides" }, make("div", {}, big, probe), make("div", {},
        make("fieldset", { className: "views" }, text("legend", "Show"), ...views.map(radio)),
        at.columns.length > 1 ? make("label", {}, "Heat ", which) : null, table(["", ""], pairs))),
      ...(ofTraining() ? [text("h3", `Over the epochs: ${at.epoch} is shown`), strip] : []));
    if (scrolled) strip.scrollLeft = scrolled.scrollLeft;
    film.set(frames.map((frame) => [frame, frame.draw]));
    if (kept) (dialog.querySelector(`[data-keep="${kept}"]:not(:disabled)`) || close).focus();
  }

  /* Classes: the atlas, and the experiments behind each verdict. */

  function trialOf(trial, name) {
    const [height, width] = dataset().size;
    const side = (picture, words, part) => {
      const src = page.pictures[picture], node = make("span", { className: "pane", style: { aspectRatio: `${width} / ${height}` } },
        src ? make("img", { src, alt: `${words}: ${name} with ${percent(part)}` }) : text("span", "no picture", { className: "no-picture" }));
      if (trial.box && src) {
        const [left, top, wide, high] = trial.box.map((at, k) => `${(100 * at) / (k % 2 ? height : width)}%`);
        node.append(make("span", { className: "box", style: { left, top, width: wide, height: high } }));
      }
      return make("span", { className: "side" }, node, text("b", percent(part)), text("span", words));
    };
    return make("li", {}, side(trial.given, "as given", trial.before), text("span", "→", { className: "arrow" }), side(trial.changed, trial.done, trial.after));
  }

  function evidenceOf(verdict) {
    const rows = verdict.evidence.map((one, k) => {
      const found = one.code && page.codes[one.code].headline;
      const figures = Object.entries(one.figures).map(([key, value]) => `${spaced(key)} ${figure(value)}`).join(", ");
      return [spaced(one.test), one.level, one.images || "", one.code && !k ? found : one.code ? `${found}. ${one.said}` : one.said, figures];
    });
    return fill(table(["Test", "Level", ">Images", "What was seen", "Figures"], rows), { className: "stacked" }, []);
  }

  function classOf(id, verdict) {
    const group = verdict ? verdict.group : "none", name = verdict ? verdict.name : nameOf(id), wrong = group === "wrong";
    const heat = fill(pane(null), { role: "img", "aria-label": `Mean heat of ${name}` }, []), below = text("p", "", { className: "small" }), then = text("p", "", { className: "small" });
    const mean = make("div", { className: "mean" }, heat, below);
    const trials = verdict ? verdict.evidence.flatMap((one) => one.trials.map((trial) => trialOf(trial, name))) : [];
    const finding = verdict ? `${verdict.headline[0].toUpperCase()}${verdict.headline.slice(1)}: ` : "";
    const node = make("article", { className: `class ${group}`, id: `class-${id}`, tabIndex: -1 },
      make("h3", {}, text("span", finding, { className: "finding" }), name), mean,
      make("div", {}, wrong && verdict.evidence.length ? text("p", verdict.evidence[0].said) : null, then,
        trials.length ? make("ol", { className: "trials" }, ...trials) : null,
        verdict ? make("details", { open: wrong }, text("summary", "What each test found"), evidenceOf(verdict)) : null));
    node.update = () => {
      const { atlas, epoch: number } = epoch(), row = atlas ? atlas.classes.findIndex((one) => one.class_id === id) : -1, now = verdictOf(id);
      const shown = heat.show(row < 0 ? [] : [atlas.heat, row], row < 0 ? "image" : "heat", THUMB), one = row < 0 ? null : atlas.classes[row];
      const where = shown ? heat.where(shown) : "There is no mean heat.";
      const alike = one && known(one.fixed_place) ? `; their heat correlates by ${figure(one.fixed_place)}` : "";
      mean.hidden = !atlas;
      heat.hidden = !one;
      heat.setAttribute("aria-label", `Mean heat of ${name}. ${where}`);
      below.textContent = `${where}${one ? ` Mean of ${plural(one.images, "image")}${alike}.` : ""}`;
      const judged = now && known(now.epoch) && now.epoch !== number ? `, judged in epoch ${now.epoch}` : "";
      then.hidden = !ofTraining();
      then.textContent = now ? `After epoch ${number}: ${now.headline} (${now.level}${judged}).` : `After epoch ${number}: no verdict.`;
    };
    return node;
  }

  function buildClasses() {
    const { epochs } = dataset(), last = new Map(epochs[epochs.length - 1].verdicts.map((one) => [one.class_id, one]));
    const ids = new Set([...last.keys(), ...epochs.flatMap((one) => (one.atlas ? one.atlas.classes.map((of) => of.class_id) : []))]);
    const rank = (id) => (!last.has(id) || last.get(id).group !== "wrong" ? 2 : last.get(id).accuses ? 0 : 1);
    const nodes = [...ids].sort((one, two) => rank(one) - rank(two) || one - two).map((id) => [rank(id) < 2, classOf(id, last.get(id))]);
    for (const loud of [true, false]) $(loud ? "loud" : "quiet").replaceChildren(...nodes.filter(([is]) => is === loud).map(([, node]) => node));
    classes.set(nodes.map(([, node]) => [node, node.update]));
    $("atlas").hidden = !nodes.length;
    for (const node of document.querySelectorAll(`[data-dataset="${state.dataset}"] .to-evidence`)) {
      const id = Number(node.dataset.class);
      node.replaceChildren(text("a", "Evidence", { href: `#class-${id}`, "aria-label": `Evidence on ${nameOf(id)}` }));
    }
  }

  /* Curves. */

  const WIDE = 260, HIGH = 96, EDGE = 8;
  let charts = [];

  function chartOf(curve, first, last) {
    const points = curve.points.filter(([, value]) => known(value)), numbers = points.map(([, value]) => value);
    const low = Math.min(...numbers), high = Math.max(...numbers), key = spaced(curve.key);
    const x = (at) => EDGE + ((WIDE - 2 * EDGE) * (at - first)) / (last - first || 1);
    const y = (value) => HIGH - EDGE - ((HIGH - 2 * EDGE) * (value - low)) / (high - low || 1);
    const cursor = svg("line", { y1: 0, y2: HIGH, class: "cursor" }), dot = svg("circle", { r: 3.5, class: "dot" }), now = make("b");
    const line = points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const said = points.length ? `from ${figure(numbers[0])} at epoch ${points[0][0]} to ${figure(numbers[numbers.length - 1])} at epoch ${points[points.length - 1][0]}` : "no values";
    const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${key}: ${said}` }, svg("polyline", { points: line }), cursor, dot);
    drawing.onclick = ({ clientX }) => {
      const box = drawing.getBoundingClientRect(), across = (((clientX - box.left) / box.width) * WIDE - EDGE) / (WIDE - 2 * EDGE);
      moveTo(nearest(first + across * (last - first)));
    };
    const range = points.length ? `${figure(low)} to ${figure(high)}` : "no values";
    const node = make("figure", {}, make("figcaption", {}, text("span", key), now), drawing,
      make("p", { className: "range" }, text("span", first), text("span", range), text("span", last)),
      curve.says ? text("p", curve.says, { className: "small" }) : null);
    const move = (at) => {
      const [, value] = points.find(([one]) => one === at) || [];
      now.textContent = figure(value);
      fill(cursor, { x1: x(at), x2: x(at) }, []);
      fill(dot, known(value) ? { cx: x(at), cy: y(value), visibility: "visible" } : { visibility: "hidden" }, []);
    };
    return { node, move };
  }

  function buildCurves() {
    const curves = page.curves.filter((one) => one.dataset === "" || one.dataset === dataset().name);
    const at = [...curves.flatMap((one) => one.points.map(([epoch]) => epoch)), ...dataset().epochs.map((one) => one.epoch)];
    charts = curves.map((curve) => chartOf(curve, Math.min(...at), Math.max(...at)));
    $("charts").replaceChildren(...charts.map(({ node }) => node));
    $("curves").hidden = !curves.length;
    $("numbers").open = false;
    $("numbers").ontoggle = () => {
      const maps = curves.map((one) => new Map(one.points)), rows = [...new Set(at)].sort((one, two) => one - two);
      const cells = rows.map((row) => [row, ...maps.map((map) => figure(map.get(row)))]);
      $("numbers").lastElementChild.replaceChildren(table([">Epoch", ...curves.map((one) => `>${spaced(one.key)}`)], cells));
    };
  }

  /* Everything together. */

  /** The index of the kept epoch that is nearest to a number. */
  const nearest = (at) => dataset().epochs.map((one, k) => [Math.abs(one.epoch - at), k]).sort(([one], [two]) => one - two)[0][1];

  function moveTo(index) {
    const { epochs } = dataset(), number = epochs[index].epoch;
    state.epoch = index;
    $("epoch").value = index;
    $("epoch").setAttribute("aria-valuetext", `epoch ${number}`);
    $("epoch-now").textContent = `${number} of ${epochs[epochs.length - 1].epoch}`;
    charts.forEach((chart) => chart.move(number));
    redraw();
    if ($("large").open) showLarge();
  }

  function redraw() {
    const image = new ImageData(256, 1), signed = state.view === "signed" || epoch().columns.some((one) => one.heat.scaling === "none");
    new Uint32Array(image.data.buffer).set(colours(signed, true));
    $("legend").getContext("2d").putImageData(image, 0, 0);
    $("low").textContent = signed ? "−1" : "0";
    showGallery();
    classes.redraw();
  }

  function showDataset() {
    const { name, images, epochs } = dataset(), last = epochs[epochs.length - 1];
    for (const node of document.querySelectorAll(".of-dataset")) node.hidden = Number(node.dataset.dataset) !== state.dataset;
    $("facts").textContent = [page.mode, name, `${plural(images.length, "image")}${ofTraining() ? " shown" : ""}`, ofTraining() && plural(epochs.length, "epoch")].filter(Boolean).join(" · ");
    made.clear();
    for (const id of ["bar", "gallery"]) $(id).hidden = !last;
    if (!last) return;
    Object.assign(state, { column: 0, more: SHOWN });
    const names = last.columns.map((one, k) => [k, columnName(one, last.columns)]);
    options($("column"), names.length > 1 ? [...names, ["all", "all, side by side"]] : names, 0);
    const told = new Set([...images.map((one) => one.label), ...epochs.flatMap((one) => one.predictions || [])].filter(known));
    options($("of-class"), [["", "any"], ...[...told].sort((one, two) => one - two).map((id) => [id, nameOf(id)])], "");
    const ways = (key) => {
      const says = page.metrics[key], worst = /lower/.test(says) ? "-" : "+", better = /lower|higher/.test(says);
      const words = better ? ["worst first", "best first"] : ["lowest first", "highest first"];
      return [[`${worst} ${key}`, `${spaced(key)}, ${words[0]}`], [`${worst === "+" ? "-" : "+"} ${key}`, `${spaced(key)}, ${words[1]}`]];
    };
    options($("sort"), [["", "as given"], ["+worst", "worst first"], ["-confidence", "confidence, highest first"],
      ["+confidence", "confidence, lowest first"], ...Object.keys(last.metrics).flatMap(ways)], "");
    for (const id of ["ask-right", "marks"]) $(id).hidden = !images.some((one) => known(one.label));
    for (const id of ["ask-verdict", "doubts"]) $(id).hidden = !epochs.some((one) => one.verdicts.length);
    $("epoch").max = epochs.length - 1;
    $("steps").hidden = epochs.length < 2;
    buildCurves();
    buildClasses();
    moveTo(epochs.length - 1);
  }

  /** Tabs over the bodies of a table; the arrow keys go from one to the next. */
  function buildTabs(block) {
    const tabs = [...block.querySelectorAll("[role=tab]")], panel = block.querySelector(".panel");
    const choose = (tab) => {
      for (const one of tabs) fill(one, { "aria-selected": String(one === tab), tabIndex: one === tab ? 0 : -1 }, []);
      for (const body of panel.querySelectorAll("tbody")) body.hidden = body.dataset.group !== tab.dataset.group;
      panel.setAttribute("aria-labelledby", tab.id);
    };
    tabs.forEach((tab, k) => {
      tab.onclick = () => choose(tab);
      tab.onkeydown = (event) => {
        const to = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        choose(tabs[(to + tabs.length) % tabs.length]);
        tabs[(to + tabs.length) % tabs.length].focus();
      };
    });
    if (!tabs.length) return;
    panel.setAttribute("role", "tabpanel");
    block.querySelector(".tabs").hidden = false;
    choose(tabs.find((tab) => tab.querySelector("b").textContent !== "0"));
  }

  let playing = null;
  function play(on) {
    clearInterval(playing);
    const last = () => state.epoch >= dataset().epochs.length - 1;
    if (on && last()) moveTo(0);
    playing = on ? setInterval(() => (last() ? play(false) : moveTo(state.epoch + 1)), STEP) : null;
    $("play").textContent = on ? "Pause" : "Play";
  }

  function showAsked() {
    const words = (value) => (Array.isArray(value) ? value.map(words).join(", ")
      : value && typeof value === "object" ? Object.entries(value).map(([key, one]) => `${key} ${words(one)}`).join(", ") : String(value));
    const pairs = Object.entries(page.asked).filter(([, value]) => known(value) && value !== "").map(([key, value]) => [spaced(key), words(value)]);
    $("asked-table").replaceChildren(table(["", ""], pairs));
    $("asked").hidden = !pairs.length;
    $("copy").onclick = () => navigator.clipboard.writeText(JSON.stringify(page.asked, null, 2)).then(
      () => { $("copied").textContent = "Copied."; },
      () => { $("copied").textContent = "The browser does not let this page copy."; });
  }

  function bind() {
    const filter = () => { state.more = SHOWN; showGallery(); };
    $("epoch").oninput = () => { play(false); moveTo(Number($("epoch").value)); };
    $("play").onclick = () => play(playing === null);
    $("dataset").onchange = () => { play(false); state.dataset = Number($("dataset").value); showDataset(); };
    $("column").onchange = () => { state.column = $("column").value === "all" ? "all" : Number($("column").value); redraw(); };
    for (const id of ["view", "colormap"]) $(id).onchange = () => { state[id] = $(id).value; redraw(); };
    for (const id of ["alpha", "threshold"]) $(id).oninput = () => { state[id] = Number($(id).value); redraw(); };
    $("filters").oninput = filter;
    $("filters").onsubmit = (event) => event.preventDefault();
    $("filters").onreset = () => setTimeout(filter);
    $("more").onclick = () => { state.more += SHOWN; showGallery(); };
    $("large").onclose = () => cardOf(large.image).focus();
    addEventListener("beforeprint", () => {
      for (const node of document.querySelectorAll("#loud details")) node.open = true;
      for (const one of [cards, classes]) one.redraw(true);
    });
  }

  options($("dataset"), page.datasets.map((one, k) => [k, one.name || `data set ${k + 1}`]), 0);
  $("choose-dataset").hidden = page.datasets.length < 2;
  options($("colormap"), Object.keys(luts).map((name) => [name, name]), state.colormap);
  $("alpha").value = state.alpha;
  document.querySelectorAll(".of-dataset").forEach(buildTabs);
  bind();
  showAsked();
  if (page.datasets.length) showDataset();
})();
