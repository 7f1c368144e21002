"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const page = JSON.parse($("page").textContent);
  const root = document.documentElement;
  const SHOWN = 96; // cards of the gallery before "Show more"
  const THUMB = 256; // the longest side of a canvas in the gallery, in pixels
  const STEP = 400; // milliseconds of an epoch while playing
  const ACCUSE = ["place", "sign", "surroundings", "absence", "nothing_local"];
  const TARGETS = { pred: "inferred class", label: "true class" };

  /* Elements, numbers, words. Strings become text nodes, so names from outside stay text. */

  function fill(node, props, children) {
    for (const [key, value] of Object.entries(props)) {
      if (key in node && !(node instanceof SVGElement)) node[key] = value;
      else node.setAttribute(key, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }
  const make = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);
  const svg = (tag, props = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
  const known = (value) => value !== null && value !== undefined;
  const percent = (part, digits = 1) => (known(part) ? `${(100 * part).toFixed(digits)}%` : "–");
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const spaced = (key) => key.replaceAll("_", " ");
  const nameOf = (id) => (known(page.class_names[id]) ? page.class_names[id] : id < 0 ? "no class" : `class ${id}`);
  const groupOf = (code) => (code === "no_shortcut" ? "passed" : ACCUSE.includes(code) ? "wrong" : "none");
  const isAt = (epoch) => `epoch ${epoch}`;

  function figure(value) {
    if (!known(value)) return "–";
    const size = Math.abs(value), whole = Number.isInteger(value) && size < 1e6;
    const text = whole ? String(value) : size >= 1e5 || size < 1e-3 ? value.toExponential(2) : value.toPrecision(3);
    return text.replace("-", "−");
  }

  function options(select, pairs, chosen) {
    select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, textContent: text })));
    if (pairs.some(([value]) => String(value) === String(chosen))) select.value = chosen;
  }

  /* Heat: from bytes to values, as fe_gradcam.scaling does it. */

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
    root.dataset.decoded = ++decoded;
    return map;
  }

  /** For each of `many` pixels the two of `few` places that it lies between, and how far it is from the first. */
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
      const one = above * width, two = below * width, at = y * width;
      for (let x = 0; x < width; x++) result[at + x] = wide[one + x] * (1 - part) + wide[two + x] * part;
    });
    return result;
  }

  /** The heatmap of a row at a size: within [0, 1], or for the scaling "none" within [-1, 1]. */
  function values(heat, row, size) {
    const map = signedMap(heat, row);
    if (heat.scaling !== "none") map.forEach((value, k) => { map[k] = heat.blank[row] ? 0 : Math.max(value, 0); });
    const offset = heat.offset ? heat.offset[row] : 0, unit = heat.unit[row] || 1;
    return resized(map, [heat.h, heat.w], size).map((value) => (value - offset) / unit);
  }

  /** The signed map of a row at a size over its largest magnitude, within [-1, 1], and that magnitude. */
  function signedValues(heat, row, size) {
    const unit = (heat.scaling === "none" && heat.unit[row]) || Math.max(heat.up[row], heat.down[row]) || 1;
    return [resized(signedMap(heat, row), [heat.h, heat.w], size).map((value) => value / unit), unit];
  }

  const within = (level) => Math.min(255, Math.max(0, Math.round(level)));
  const levelOf = (value, signed) => within(signed ? 127.5 + 127.5 * value : 255 * value);

  /** The colour of each level, and how opaque it lies on the picture; see fe_gradcam.drawing.pixels.overlay. */
  function colours(signed, opaque) {
    const lut = signed ? signedLut : luts[state.colormap], table = new Uint8ClampedArray(1024);
    for (let k = 0; k < 256; k++) {
      const strength = signed ? (Math.abs(2 * k - 255) - 1) / 254 : k / 255;
      const weight = opaque || state.alpha === 1 ? 1 : 1 - (1 - state.alpha) ** (2 * strength);
      table.set([lut[3 * k], lut[3 * k + 1], lut[3 * k + 2], strength < state.threshold ? 0 : 255 * weight], 4 * k);
    }
    return new Uint32Array(table.buffer);
  }

  /** Draws the heat of a row; returns its values, so that words can be found for them. */
  function paint(canvas, heat, row, view, most) {
    const shrink = Math.min(1, most / Math.max(...heat.size));
    const size = heat.size.map((side) => Math.max(1, Math.round(side * shrink)));
    const signed = view === "signed" || heat.scaling === "none";
    const drawn = view === "signed" ? signedValues(heat, row, size)[0] : values(heat, row, size);
    [canvas.height, canvas.width] = size;
    const image = new ImageData(canvas.width, canvas.height), pixels = new Uint32Array(image.data.buffer);
    const table = colours(signed, view !== "both");
    drawn.forEach((value, k) => { pixels[k] = table[levelOf(value, signed)]; });
    canvas.getContext("2d").putImageData(image, 0, 0);
    return view === "signed" && heat.scaling !== "none" ? values(heat, row, size) : drawn;
  }

  /** Where the hottest place is: the box around the region of at least half the maximum that holds the maximum. */
  function placeOf(heat, [height, width]) {
    let hottest = 0;
    heat.forEach((value, k) => { if (value > heat[hottest]) hottest = k; });
    if (!(heat[hottest] > 0)) return null;
    const half = heat[hottest] / 2, seen = new Uint8Array(heat.length), open = [hottest];
    let [left, right, top, bottom] = [width, 0, height, 0];
    seen[hottest] = 1;
    while (open.length) {
      const k = open.pop(), x = k % width, y = (k - x) / width;
      [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
      for (const [near, inside] of [[k - 1, x > 0], [k + 1, x < width - 1], [k - width, y > 0], [k + width, y < height - 1]]) {
        if (inside && !seen[near] && heat[near] >= half) { seen[near] = 1; open.push(near); }
      }
    }
    return { left, top, width: right - left + 1, height: bottom - top + 1 };
  }

  function placeInWords(box, [height, width]) {
    const down = (box.top + box.height / 2) / height, across = (box.left + box.width / 2) / width;
    const row = down < 1 / 3 ? "upper" : down > 2 / 3 ? "lower" : "";
    const column = across < 1 / 3 ? "left" : across > 2 / 3 ? "right" : "";
    return row && column ? `${row} ${column} corner` : row || column ? `${row || column} edge` : "middle";
  }

  function whereInWords(heat, size) {
    const box = placeOf(heat, size);
    if (!box) return "There is no heat: nothing speaks for this class.";
    let [all, inside] = [0, 0];
    heat.forEach((value, k) => {
      const x = k % size[1], y = (k - x) / size[1];
      all += Math.max(value, 0);
      if (x >= box.left && x < box.left + box.width && y >= box.top && y < box.top + box.height) inside += Math.max(value, 0);
    });
    const area = (box.width * box.height) / heat.length;
    return `The heat is in the ${placeInWords(box, size)}: ${percent(inside / all, 0)} of it on ${percent(area, 0)} of the image.`;
  }

  /* What is shown now. */

  const state = {
    dataset: 0, epoch: 0, column: 0, view: "both", alpha: page.alpha, threshold: 0, more: SHOWN,
    colormap: page.colormap in luts ? page.colormap : Object.keys(luts)[0],
  };
  const dataset = () => page.datasets[state.dataset];
  const epoch = () => dataset().epochs[state.epoch];
  const idOf = (image) => (known(dataset().images[image].id) ? String(dataset().images[image].id) : `image ${image + 1}`);
  const rowOf = (at, image) => (at.images ? at.images.indexOf(image) : image);
  const verdictOf = (id) => (epoch().verdicts || []).find((one) => one.class_id === id);

  function columnName(one, all) {
    const target = TARGETS[one.target] || (/^\d+$/.test(one.target) ? `class ${one.target}` : one.target);
    const layers = new Set(all.map((other) => other.layer)).size > 1 && one.layer ? `, ${one.layer}` : "";
    return `${spaced(one.method)}, ${target}${layers}`;
  }

  /** What is known of an image in an epoch. */
  function factsOf(at, image) {
    const row = rowOf(at, image), { label } = dataset().images[image];
    const told = at.predictions ? at.predictions[row] : null, confidence = at.confidences ? at.confidences[row] : null;
    const right = known(label) && label >= 0 && known(told) ? label === told : null;
    return { row, label, told, confidence, right, true: at.true ? at.true[row] : null };
  }

  function toldInWords({ told, confidence, right, label, true: probability }) {
    if (!known(told)) return known(label) ? `is ${nameOf(label)}` : "";
    const also = right === false ? `, is ${nameOf(label)}${known(probability) ? ` ${percent(probability)}` : ""}` : "";
    return `${right === null ? "" : right ? "✓ " : "✗ "}${nameOf(told)} ${percent(confidence)}${also}`;
  }

  /** Elements that are drawn only while they are seen, or nearly. */
  class Lazy {
    constructor() {
      this.items = new Map();
      this.watcher = new IntersectionObserver((entries) => {
        for (const { target, isIntersecting } of entries) {
          const item = this.items.get(target);
          if (item) { item.seen = isIntersecting; if (isIntersecting) this.draw(item); }
        }
      }, { rootMargin: "150px" });
    }
    set(pairs) {
      this.watcher.disconnect();
      const before = this.items;
      this.items = new Map(pairs.map(([node, draw]) => [node, { draw, seen: before.has(node) && before.get(node).seen }]));
      for (const node of this.items.keys()) this.watcher.observe(node);
    }
    draw(item) {
      item.stale = false;
      item.draw();
    }
    redraw(all = false) {
      for (const item of this.items.values()) if (all || item.seen) this.draw(item);
    }
  }
  const cards = new Lazy(), classes = new Lazy(), film = new Lazy();

  /** A picture with a canvas over it; `show` draws the heat of a row, or takes it away. */
  function pane(src, size) {
    const canvas = make("canvas", { width: 1, height: 1 }), node = make("span", { className: "pane" });
    canvas.setAttribute("aria-hidden", "true");
    node.style.aspectRatio = `${size[1]} / ${size[0]}`;
    if (src) node.append(make("img", { src, alt: "", decoding: "async" }));
    node.append(canvas);
    node.show = (heat, row, view, most) => {
      const shown = !src && view === "both" ? "heat" : view;
      node.dataset.view = shown;
      if (shown === "image") { canvas.width = 1; return null; }
      return paint(canvas, heat, row, shown, most);
    };
    node.canvas = canvas;
    return node;
  }

  /* Gallery. */

  const made = new Map(); // cards by image, so that a picture is decoded once

  function cardOf(image) {
    if (made.has(image)) return made.get(image);
    const panes = make("span", { className: "panes" }), caption = make("span", { className: "caption" });
    const card = make("button", { type: "button", className: "card" }, panes, caption);
    card.dataset.image = image;
    card.onclick = () => openLarge(image);
    card.update = () => {
      const at = epoch(), facts = factsOf(at, image), words = [];
      const columns = state.column === "all" ? at.columns : [at.columns[state.column] || at.columns[0]].filter(Boolean);
      while (panes.children.length > Math.max(columns.length, 1)) panes.lastChild.remove();
      while (panes.children.length < Math.max(columns.length, 1)) panes.append(pane(dataset().images[image].src, dataset().size));
      columns.forEach((column, k) => {
        const heat = panes.children[k].show(column.heat, facts.row, state.view, THUMB), { canvas } = panes.children[k];
        if (heat) words.push(whereInWords(heat, [canvas.height, canvas.width]));
      });
      const verdict = known(facts.told) ? verdictOf(facts.told) : null, wrong = verdict && groupOf(verdict.code) === "wrong";
      caption.replaceChildren(make("span", { className: "id", textContent: idOf(image), title: idOf(image) }),
        make("span", { className: "told", textContent: toldInWords(facts) + (wrong ? (verdict.accuses ? " ▲" : " △") : "") }));
      card.dataset.right = String(facts.right);
      const judged = wrong ? ` ${nameOf(facts.told)} ${verdict.headline.startsWith("may") ? "" : "is "}${verdict.headline}.` : "";
      const rightly = facts.right === null ? "" : facts.right ? ", told rightly" : ", told wrongly";
      card.setAttribute("aria-label", `${idOf(image)}: ${toldInWords(facts).replace(/^[✓✗] /, "")}${rightly}. ${words[0] || ""}${judged}`);
    };
    made.set(image, card);
    return card;
  }

  /** The images that the filters leave, in the order that is asked for. */
  function chosen() {
    const at = epoch(), all = at.columns.length || at.predictions ? at.images || dataset().images.map((_, k) => k) : [];
    const facts = new Map(all.map((image) => [image, factsOf(at, image)]));
    const [ofClass, right, verdict, name, sort] = ["of-class", "right", "verdict", "name", "sort"].map((id) => $(id).value);
    const from = $("from").value === "" ? -Infinity : $("from").value / 100, to = $("to").value === "" ? Infinity : $("to").value / 100;
    const bounded = from > -Infinity || to < Infinity;
    const left = all.filter((image) => {
      const one = facts.get(image), judged = known(one.told) && verdictOf(one.told);
      return (ofClass === "" || one.told === Number(ofClass) || one.label === Number(ofClass))
        && (right === "" || one.right === (right === "right"))
        && (verdict === "" || (judged && groupOf(judged.code) === verdict))
        && (!bounded || (known(one.confidence) && one.confidence >= from && one.confidence <= to))
        && idOf(image).toLowerCase().includes(name.trim().toLowerCase());
    });
    const [key, way] = sort.split(" ");
    const worth = (image) => {
      const one = facts.get(image);
      if (key === "worst") return one.right === false ? -1 - one.confidence : known(one.true) ? one.true : one.confidence;
      return key === "confidence" ? one.confidence : at.metrics[key] ? at.metrics[key][one.row] : null;
    };
    const sign = way === "down" ? -1 : 1, last = (value) => (known(value) ? sign * value : Infinity);
    if (key !== "given") left.sort((one, two) => last(worth(one)) - last(worth(two)) || one - two);
    return { left, of: all.length };
  }

  let inGallery = []; // images, in the order of the gallery
  function showGallery() {
    const { left, of } = chosen(), shown = left.slice(0, state.more);
    const same = shown.length === $("cards").children.length && shown.every((image, k) => $("cards").children[k] === cardOf(image));
    inGallery = left;
    $("count").textContent = of ? `${left.length} of ${plural(of, "image")}` : "The images of this epoch were not kept.";
    $("more").hidden = left.length <= state.more;
    $("cards").dataset.columns = state.column === "all" ? epoch().columns.length : 1;
    if (same) return cards.redraw();
    $("cards").replaceChildren(...shown.map(cardOf));
    cards.set(shown.map((image) => [cardOf(image), cardOf(image).update]));
    cards.redraw();
  }

  /* One image, large. */

  function openLarge(image) {
    const dialog = $("large");
    Object.assign(large, { image, view: state.view === "image" ? "both" : state.view, column: state.column === "all" ? 0 : state.column, at: null });
    showLarge();
    if (!dialog.open) dialog.showModal();
    film.redraw();
    const now = dialog.querySelector(".film [aria-current=true]");
    if (now) now.scrollIntoView({ block: "nearest", inline: "center" });
  }
  const large = { image: 0, view: "both", column: 0, at: null };

  function showLarge() {
    const { image } = large, at = epoch(), facts = factsOf(at, image), { src } = dataset().images[image];
    const focused = document.activeElement && document.activeElement.dataset.keep;
    const here = inGallery.indexOf(image), step = (by) => () => { large.image = inGallery[here + by]; large.at = null; showLarge(); };
    const button = (keep, text, onclick, disabled = false) => {
      const node = make("button", { type: "button", onclick, disabled, textContent: text });
      node.dataset.keep = keep;
      return node;
    };
    const column = at.columns[large.column] || at.columns[0];
    const ofTruth = column && at.columns.find((one) => one.method === column.method && one.target === "label");
    const views = [["image", "Image"], ["heat", "Heat"], ["both", "Both"], ["truth", "True class"], ["signed", "Signed map"]]
      .filter(([view]) => (src || !["image", "both"].includes(view)) && (view !== "truth" || (ofTruth && ofTruth !== column)));
    if (!views.some(([view]) => view === large.view)) large.view = src ? "both" : "heat";
    const shown = large.view === "truth" ? ofTruth : column;
    const big = pane(src, dataset().size), probe = make("output", { className: "probe", textContent: " " });
    const sentence = make("p", { className: "lead" }), cross = make("span", { className: "cross", hidden: true });
    const body = [sentence];
    if (shown && facts.row >= 0) {
      const size = shown.heat.size, heat = big.show(shown.heat, facts.row, large.view === "truth" ? (src ? "both" : "heat") : large.view, Infinity)
        || values(shown.heat, facts.row, size);
      const [signed, unit] = signedValues(shown.heat, facts.row, size);
      sentence.textContent = whereInWords(heat, size);
      big.append(cross);
      const read = (x, y) => {
        const [col, row] = [Math.min(size[1] - 1, Math.max(0, x)), Math.min(size[0] - 1, Math.max(0, y))], k = row * size[1] + col;
        large.at = [col, row];
        cross.hidden = false;
        [cross.style.left, cross.style.top] = [`${(100 * (col + 0.5)) / size[1]}%`, `${(100 * (row + 0.5)) / size[0]}%`];
        probe.textContent = `row ${row}, column ${col}: heat ${figure(Number(heat[k].toFixed(3)))}, signed ${figure(signed[k] * unit)} of ±${figure(unit)}`;
      };
      big.onpointermove = (event) => {
        const box = big.getBoundingClientRect();
        read(Math.floor(((event.clientX - box.left) / box.width) * size[1]), Math.floor(((event.clientY - box.top) / box.height) * size[0]));
      };
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      big.onkeydown = (event) => {
        if (!(event.key in moves)) return;
        const far = event.shiftKey ? 10 : 1, [x, y] = large.at || [Math.floor(size[1] / 2), Math.floor(size[0] / 2)];
        event.preventDefault();
        read(x + far * moves[event.key][0], y + far * moves[event.key][1]);
      };
      Object.assign(big, { tabIndex: 0 }).setAttribute("role", "application");
      big.setAttribute("aria-label", `${idOf(image)}. ${sentence.textContent} The arrow keys read values.`);
      big.dataset.keep = "pane";
      if (large.at) read(...large.at);
    } else sentence.textContent = `This image was not explained in ${isAt(at.epoch)}.`;

    const choices = make("fieldset", { className: "views" }, make("legend", { textContent: "Show" }), ...views.map(([view, text]) => {
      const radio = make("input", { type: "radio", name: "large-view", value: view, checked: view === large.view, onchange: () => { large.view = view; showLarge(); } });
      radio.dataset.keep = `view-${view}`;
      return make("label", {}, radio, text);
    }));
    const which = make("select", { onchange: () => { large.column = Number(which.value); showLarge(); } });
    options(which, at.columns.map((one, k) => [k, columnName(one, at.columns)]), large.column);
    which.dataset.keep = "column";
    const verdict = known(facts.told) && verdictOf(facts.told), pairs = [
      ["Told", known(facts.told) ? `${nameOf(facts.told)}, ${percent(facts.confidence)}` : null],
      ["Is", known(facts.label) ? `${nameOf(facts.label)}${known(facts.true) ? `, ${percent(facts.true)}` : ""}` : null],
      ["Which is", facts.right === null ? null : facts.right ? "✓ right" : "✗ wrong"],
      ["Verdict", verdict ? `${nameOf(facts.told)}: ${verdict.headline} (${verdict.level})` : null],
      ["Heat shown", shown ? `${columnName(shown, at.columns)}: ${nameOf(shown.class_ids[facts.row])}` : null],
      ...Object.entries(at.metrics || {}).map(([key, of]) => [spaced(key), figure(of[facts.row])]),
    ].filter(([, value]) => value !== null);
    const frames = dataset().epochs.map((one, k) => {
      const row = rowOf(one, image), from = one.columns[large.column] || one.columns[0];
      if (row < 0 || !from || row >= from.heat.up.length) return null;
      const small = pane(src, dataset().size), then = factsOf(one, image);
      const frame = make("button", { type: "button", onclick: () => moveTo(k) }, small,
        make("span", { textContent: `${one.epoch}${then.right === null ? "" : then.right ? " ✓" : " ✗"}` }));
      frame.setAttribute("aria-label", `${isAt(one.epoch)}: ${toldInWords(then).replace(/^[✓✗] /, "")}`);
      frame.setAttribute("aria-current", String(k === state.epoch));
      frame.dataset.keep = `frame-${k}`;
      frame.draw = () => small.show(from.heat, row, large.view === "truth" ? "both" : large.view, 96);
      return frame;
    }).filter(Boolean);
    const strip = make("div", { className: "film" }, ...frames);
    const scrolled = $("large").querySelector(".film");
    $("large").replaceChildren(
      make("div", { className: "top" }, make("h2", { id: "large-name", textContent: idOf(image) }),
        make("span", { className: "buttons" }, button("before", "‹ Previous", step(-1), here <= 0),
          button("next", "Next ›", step(1), here < 0 || here >= inGallery.length - 1), button("close", "Close", () => $("large").close()))),
      ...body,
      make("div", { className: "sides" },
        make("div", {}, big, probe),
        make("div", {}, choices, at.columns.length > 1 ? make("label", {}, "Heat of ", which) : null,
          make("table", {}, make("tbody", {}, ...pairs.map(([key, value]) => make("tr", {}, make("th", { scope: "row", textContent: key }), make("td", { textContent: value }))))))),
      make("h3", { textContent: `Over the epochs; shown is ${isAt(at.epoch)}` }), strip);
    if (scrolled) strip.scrollLeft = scrolled.scrollLeft;
    film.set(frames.map((frame) => [frame, frame.draw]));
    if (focused) (document.querySelector(`#large [data-keep="${focused}"]:not(:disabled)`) || $("large").querySelector("[data-keep=close]")).focus();
  }

  /* Classes: the atlas, and the experiments behind each verdict. */

  const srcOf = (picture) => (typeof picture === "number" ? page.pictures[picture] : picture);

  function trialOf(trial, verdict) {
    const [height, width] = dataset().size, side = (picture, words, part) => {
      const src = srcOf(picture), node = make("span", { className: "pane" });
      node.style.aspectRatio = `${width} / ${height}`;
      node.append(src ? make("img", { src, alt: `${words}: ${nameOf(verdict.class_id)} with ${percent(part)}` }) : make("span", { className: "no-picture", textContent: "no picture" }));
      if (trial.box && src) {
        const box = make("span", { className: "box" }), [left, top, wide, high] = trial.box;
        Object.assign(box.style, { left: `${(100 * left) / width}%`, top: `${(100 * top) / height}%`, width: `${(100 * wide) / width}%`, height: `${(100 * high) / height}%` });
        node.append(box);
      }
      return make("span", { className: "side" }, node, make("b", { textContent: percent(part) }), make("span", { textContent: words }));
    };
    return make("li", {}, side(trial.given, "as given", trial.before), make("span", { className: "arrow", textContent: "→" }), side(trial.changed, trial.done, trial.after));
  }

  function evidenceOf(verdict) {
    const head = ["Test", "Level", "Found", "Images", "Figures"];
    const rows = verdict.evidence.map((one) => make("tr", {},
      make("th", { scope: "row", textContent: spaced(one.test) }), make("td", { textContent: one.level }),
      make("td", { textContent: one.code ? page.codes[one.code] ? page.codes[one.code].headline : one.code : one.level === "not tested" ? one.said : "nothing" }),
      make("td", { className: "figure", textContent: one.images }),
      make("td", { textContent: Object.entries(one.figures).map(([key, value]) => `${spaced(key)} ${figure(value)}`).join(", ") })));
    return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, make("tr", {}, ...head.map((text, k) => make("th", { scope: "col", className: k === 3 ? "figure" : "", textContent: text })))), make("tbody", {}, ...rows)));
  }

  function classOf(id, verdict) {
    const group = verdict ? groupOf(verdict.code) : "none", name = verdict ? verdict.name : nameOf(id);
    const heat = pane(null, dataset().size), below = make("p", { className: "small" }), then = make("p", { className: "small" });
    const node = make("article", { className: `class ${group}`, id: `class-${id}`, tabIndex: -1 });
    const trials = verdict ? verdict.evidence.flatMap((one) => one.trials.map((trial) => trialOf(trial, verdict))) : [];
    node.append(make("div", { className: "mean" }, heat, below),
      make("div", {}, make("h3", {}, verdict ? make("span", { className: "finding", textContent: `${verdict.headline[0].toUpperCase()}${verdict.headline.slice(1)}: ` }) : null, name),
        then, verdict && group === "wrong" ? make("p", { textContent: verdict.evidence[0].said }) : null,
        trials.length ? make("ol", { className: "trials" }, ...trials) : null,
        verdict ? make("details", { open: group === "wrong" }, make("summary", { textContent: "What each test found" }), evidenceOf(verdict)) : null));
    heat.setAttribute("role", "img");
    node.update = () => {
      const { atlas } = epoch(), row = atlas ? atlas.classes.findIndex((one) => one.class_id === id) : -1, now = verdictOf(id);
      const one = row < 0 ? null : atlas.classes[row], shown = one ? heat.show(atlas.heat, row, "heat", THUMB) : heat.show(null, 0, "image", 1);
      const where = shown ? whereInWords(shown, [heat.canvas.height, heat.canvas.width]) : "There is no mean heat in this epoch.";
      heat.setAttribute("aria-label", `Mean heat of ${name}. ${where}`);
      below.textContent = one ? `${plural(one.images, "image")}, fixed place ${figure(one.fixed_place)}` : "no mean heat";
      then.textContent = now ? `After ${isAt(epoch().epoch)}: ${now.headline} (${now.level}${known(now.epoch) && now.epoch !== epoch().epoch ? `, judged in ${isAt(now.epoch)}` : ""}). ${where}` : where;
    };
    return node;
  }

  function buildClasses() {
    const { epochs } = dataset(), verdicts = epochs.length ? epochs[epochs.length - 1].verdicts || [] : [];
    const ids = new Set([...verdicts.map((one) => one.class_id), ...epochs.flatMap((one) => (one.atlas ? one.atlas.classes.map((of) => of.class_id) : []))]);
    const by = new Map(verdicts.map((one) => [one.class_id, one])), loud = (id) => by.has(id) && groupOf(by.get(id).code) === "wrong";
    const rank = (id) => (loud(id) ? (by.get(id).accuses ? 0 : 1) : 2);
    const nodes = [...ids].sort((one, two) => rank(one) - rank(two) || one - two).map((id) => [id, classOf(id, by.get(id))]);
    $("loud").replaceChildren(...nodes.filter(([id]) => loud(id)).map(([, node]) => node));
    $("quiet").replaceChildren(...nodes.filter(([id]) => !loud(id)).map(([, node]) => node));
    classes.set(nodes.map(([, node]) => [node, node.update]));
    $("atlas").hidden = !nodes.length;
    for (const node of document.querySelectorAll(`[data-dataset="${state.dataset}"] .to-evidence`)) {
      const id = Number(node.dataset.class);
      node.replaceChildren(make("a", { href: `#class-${id}`, textContent: "Evidence", ariaLabel: `Evidence on ${nameOf(id)}` }));
    }
  }

  /* Curves. */

  const WIDE = 260, HIGH = 96;
  let charts = [];

  function chartOf(curve, [first, last]) {
    const points = curve.points.filter(([, value]) => known(value)), numbers = points.map(([, value]) => value);
    const [low, high] = numbers.length ? [Math.min(...numbers), Math.max(...numbers)] : [0, 1], span = high - low || 1;
    const x = (at) => 8 + ((WIDE - 16) * (at - first)) / (last - first || 1), y = (value) => HIGH - 8 - ((HIGH - 16) * (value - low)) / span;
    const cursor = svg("line", { y1: 0, y2: HIGH, class: "cursor" }), dot = svg("circle", { r: 3.5, class: "dot" });
    const now = make("b"), middle = points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img" }, svg("path", { d: `M0 ${HIGH - 0.5}H${WIDE}`, class: "axis" }),
      points.length > 1 ? svg("polyline", { points: middle }) : svg("circle", { cx: x(first), cy: y(low), r: 2 }), cursor, dot);
    const [start, end] = [points[0], points[points.length - 1]];
    drawing.setAttribute("aria-label", start ? `${spaced(curve.key)}: ${figure(start[1])} at ${isAt(start[0])}, ${figure(end[1])} at ${isAt(end[0])}, between ${figure(low)} and ${figure(high)}` : `${spaced(curve.key)}: no values`);
    drawing.onclick = (event) => {
      const box = drawing.getBoundingClientRect(), at = first + ((((event.clientX - box.left) / box.width) * WIDE - 8) / (WIDE - 16)) * (last - first);
      moveTo(nearest(at));
    };
    const node = make("figure", {}, make("figcaption", {}, make("span", { textContent: spaced(curve.key) }), now), drawing,
      make("p", { className: "range" }, make("span", { textContent: isAt(first) }), make("span", { textContent: `${figure(low)} to ${figure(high)}` }), make("span", { textContent: last })),
      curve.says ? make("p", { className: "small", textContent: curve.says }) : null);
    const move = (at) => {
      const point = points.find(([one]) => one === at);
      cursor.setAttribute("x1", x(at));
      cursor.setAttribute("x2", x(at));
      dot.setAttribute("visibility", point ? "visible" : "hidden");
      if (point) { dot.setAttribute("cx", x(at)); dot.setAttribute("cy", y(point[1])); }
      now.textContent = point ? figure(point[1]) : "–";
    };
    return { node, move };
  }

  function buildCurves() {
    const curves = page.curves.filter((one) => one.dataset === "" || one.dataset === dataset().name);
    const at = [...curves.flatMap((one) => one.points.map(([epoch]) => epoch)), ...dataset().epochs.map((one) => one.epoch)];
    charts = curves.map((curve) => chartOf(curve, [Math.min(...at), Math.max(...at)]));
    $("charts").replaceChildren(...charts.map(({ node }) => node));
    $("curves").hidden = !curves.length;
    $("numbers").ontoggle = () => {
      const rows = [...new Set(curves.flatMap((one) => one.points.map(([epoch]) => epoch)))].sort((one, two) => one - two);
      const maps = curves.map((one) => new Map(one.points));
      $("numbers").lastElementChild.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col", textContent: "Epoch" }), ...curves.map((one) => make("th", { scope: "col", className: "figure", textContent: spaced(one.key) })))),
        make("tbody", {}, ...rows.map((row) => make("tr", {}, make("th", { scope: "row", className: "figure", textContent: row }), ...maps.map((map) => make("td", { className: "figure", textContent: figure(map.get(row)) })))))));
    };
  }

  /* Everything together. */

  const nearest = (at) => dataset().epochs.reduce((best, one, k, all) => (Math.abs(one.epoch - at) < Math.abs(all[best].epoch - at) ? k : best), 0);

  function moveTo(index) {
    state.epoch = index;
    $("epoch").value = index;
    showEpoch();
  }

  function showEpoch() {
    const { epochs } = dataset(), at = epoch();
    $("epoch").setAttribute("aria-valuetext", isAt(at.epoch));
    $("epoch-now").textContent = `${at.epoch} of ${epochs[epochs.length - 1].epoch}`;
    charts.forEach((chart) => chart.move(at.epoch));
    showGallery();
    classes.redraw();
    if ($("large").open) showLarge();
  }

  function showLegend() {
    const image = new ImageData(256, 1), signed = state.view === "signed";
    new Uint32Array(image.data.buffer).set(colours(signed, true));
    $("legend").getContext("2d").putImageData(image, 0, 0);
    $("low").textContent = signed ? "−1" : "0";
  }

  function showDataset() {
    const { name, images, epochs } = dataset(), last = epochs[epochs.length - 1];
    for (const node of document.querySelectorAll(".of-dataset")) node.hidden = Number(node.dataset.dataset) !== state.dataset;
    $("facts").textContent = [page.mode, name, plural(images.length, "image"), plural(epochs.length, "epoch")].filter(Boolean).join(" · ");
    made.clear();
    state.epoch = Math.max(0, epochs.length - 1);
    state.more = SHOWN;
    for (const id of ["bar", "gallery"]) $(id).hidden = !epochs.length;
    if (!epochs.length) return;
    const columns = epochs.reduce((most, one) => (one.columns.length > most.length ? one.columns : most), []);
    state.column = 0;
    options($("column"), [...columns.map((one, k) => [k, columnName(one, columns)]), ...(columns.length > 1 ? [["all", "all, side by side"]] : [])], 0);
    const told = new Set([...images.map((one) => one.label), ...epochs.flatMap((one) => one.predictions || [])].filter((id) => known(id) && id >= 0));
    options($("of-class"), [["", "any"], ...[...told].sort((one, two) => one - two).map((id) => [id, nameOf(id)])], "");
    const metrics = [...new Set(epochs.flatMap((one) => Object.keys(one.metrics || {})))];
    options($("sort"), [["given", "as given"], ["worst up", "worst first"], ["confidence down", "confidence, highest first"], ["confidence up", "confidence, lowest first"],
      ...metrics.flatMap((key) => [[`${key} down`, `${spaced(key)}, highest first`], [`${key} up`, `${spaced(key)}, lowest first`]])], "given");
    $("ask-right").hidden = !images.some((one) => known(one.label));
    $("ask-verdict").hidden = !(last.verdicts || []).length;
    $("epoch").max = epochs.length - 1;
    $("epoch").value = state.epoch;
    $("play").disabled = epochs.length < 2;
    buildCurves();
    buildClasses();
    showEpoch();
  }

  /** Tabs over the bodies of a table; the arrow keys go from one to the next. */
  function buildTabs(block) {
    const tabs = [...block.querySelectorAll("[role=tab]")], panel = block.querySelector(".panel");
    if (!tabs.length) return;
    const choose = (tab) => {
      for (const one of tabs) {
        one.setAttribute("aria-selected", String(one === tab));
        one.tabIndex = one === tab ? 0 : -1;
      }
      for (const body of panel.querySelectorAll("tbody")) body.hidden = body.dataset.group !== tab.dataset.group;
      panel.setAttribute("aria-labelledby", tab.id);
    };
    panel.setAttribute("role", "tabpanel");
    tabs.forEach((tab, k) => {
      tab.onclick = () => choose(tab);
      tab.onkeydown = (event) => {
        const to = { ArrowLeft: k - 1, ArrowRight: k + 1, Home: 0, End: tabs.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        const next = tabs[(to + tabs.length) % tabs.length];
        choose(next);
        next.focus();
      };
    });
    block.querySelector(".tabs").hidden = false;
    choose(tabs.find((tab) => tab.querySelector("b").textContent !== "0") || tabs[0]);
  }

  let playing = null;
  function play(on) {
    clearInterval(playing);
    $("play").textContent = on ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", String(on));
    if (!on) { playing = null; return; }
    if (state.epoch >= dataset().epochs.length - 1) moveTo(0);
    playing = setInterval(() => (state.epoch < dataset().epochs.length - 1 ? moveTo(state.epoch + 1) : play(false)), STEP);
  }

  function bind() {
    $("epoch").oninput = () => moveTo(Number($("epoch").value));
    $("play").onclick = () => play(playing === null);
    $("dataset").onchange = () => { play(false); state.dataset = Number($("dataset").value); showDataset(); };
    const redraw = () => { showLegend(); showGallery(); classes.redraw(); };
    $("column").onchange = () => { state.column = $("column").value === "all" ? "all" : Number($("column").value); redraw(); };
    for (const id of ["view", "colormap"]) $(id).onchange = () => { state[id] = $(id).value; redraw(); };
    for (const id of ["alpha", "threshold"]) $(id).oninput = () => { state[id] = Number($(id).value); redraw(); };
    const filter = () => { state.more = SHOWN; showGallery(); };
    $("filters").oninput = filter;
    $("filters").onsubmit = (event) => event.preventDefault();
    $("filters").onreset = () => setTimeout(filter);
    $("more").onclick = () => { state.more += SHOWN; showGallery(); };
    $("copy").onclick = async () => {
      try {
        await navigator.clipboard.writeText(JSON.stringify(page.asked, null, 2));
        $("copied").textContent = "Copied.";
      } catch (error) {
        $("copied").textContent = "The browser does not let this page copy.";
      }
    };
    addEventListener("beforeprint", () => {
      for (const node of document.querySelectorAll("details")) node.open = node.id !== "numbers" || node.open;
      cards.redraw(true);
      classes.redraw(true);
    });
  }

  function start() {
    options($("dataset"), page.datasets.map((one, k) => [k, one.name || `data set ${k + 1}`]), 0);
    $("choose-dataset").hidden = page.datasets.length < 2;
    options($("colormap"), Object.keys(luts).map((name) => [name, name]), state.colormap);
    $("alpha").value = state.alpha;
    document.querySelectorAll(".of-dataset").forEach(buildTabs);
    const asked = Object.entries(page.asked).filter(([, value]) => known(value));
    const words = (value) => (Array.isArray(value) ? value.map(words).join(", ") : value && typeof value === "object" ? Object.entries(value).map(([key, one]) => `${key} ${words(one)}`).join(", ") : String(value));
    $("asked").querySelector("tbody").replaceChildren(...asked.map(([key, value]) => make("tr", {}, make("th", { scope: "row", textContent: spaced(key) }), make("td", { textContent: words(value) }))));
    $("asked").hidden = !asked.length;
    bind();
    if (page.datasets.length) { showLegend(); showDataset(); }
  }

  start();
})();
