// Draws the graph of the page's data. Stored text reaches the page as text alone: textContent, and labels on a canvas.
"use strict";
(() => {
  const TYPES = {
    depends_on: { color: "#0072b2", arrow: true },
    required_for: { color: "#56a8d9", arrow: true },
    builds_upon: { color: "#009e73", arrow: true },
    enhances: { color: "#d99000", arrow: true },
    similar_to: { color: "#9aa3b2", arrow: false },
    contradicts: { color: "#d5430e", arrow: false, dashed: true },
  };
  // Said from the other end.
  const BACKWARDS = {
    depends_on: "needed by", required_for: "requires", builds_upon: "basis of", enhances: "enhanced by",
    similar_to: "similar to", contradicts: "contradicts",
  };
  const KINDS = {
    factual: "#4c78a8", procedural: "#54a24b", contextual: "#d6b021", relational: "#b279a2",
    experiential: "#ef8518", technical_discovery: "#d65f5f",
  };
  const FONT = "system-ui, Segoe UI, Helvetica Neue, Arial, sans-serif";
  const LABEL_PIXELS = 11.5;
  const MARGIN = 60;
  const LABEL_WIDTH = 112;

  const data = JSON.parse(document.getElementById("data").textContent);
  const items = new Map(data.items.map((item) => [item.knowledge_id, item]));
  const middle = data.items.length > 0 && data.items[0].depth === 0 ? data.items[0].knowledge_id : null;
  const dense = data.relationships.length > 4 * data.items.length;
  const plain = (word) => word.replaceAll("_", " ");

  function element(tag, properties, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function shorten(text, length) {
    if (text.length <= length) return text;
    const cut = text.slice(0, length - 1);
    return (cut.includes(" ", length / 2) ? cut.slice(0, cut.lastIndexOf(" ")) : cut) + "…";
  }

  // The same graph looks the same whenever it is drawn.
  function seeded(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  const cy = cytoscape({
    container: document.getElementById("graph"),
    elements: [
      ...data.items.map((item) => ({
        data: {
          id: item.knowledge_id,
          label: shorten(item.title, 36),
          color: KINDS[item.knowledge_type] || "#888888",
          size: Math.max(9 + 0.3 * item.importance_score, item.knowledge_id === middle ? 36 : 0),
          weight: item.importance_score + (item.knowledge_id === middle ? 1000 : 0),
        },
        classes: [
          item.validation_status,
          item.knowledge_id === middle ? "middle" : "",
        ].join(" "),
      })),
      ...data.relationships.map((one) => ({
        data: {
          id: one.relationship_id,
          source: one.source_knowledge_id,
          target: one.target_knowledge_id,
          type: one.relationship_type,
          color: (TYPES[one.relationship_type] || TYPES.similar_to).color,
          width: 0.8 + 2.2 * one.strength,
          strength: one.strength,
        },
        classes: one.relationship_type,
      })),
    ],
    style: [
      { selector: "node", style: {
        "background-color": "data(color)", width: "data(size)", height: "data(size)",
        "border-width": 1.5, "border-color": "#ffffff" } },
      { selector: "node.pending", style: { "border-style": "dashed", "border-color": "#1d2433" } },
      { selector: "node.needs_update", style: { "border-style": "dotted", "border-color": "#1d2433", "border-width": 2.5 } },
      { selector: "node.deprecated", style: { "background-opacity": 0.35 } },
      { selector: "node.middle", style: { "border-width": 5, "border-style": "solid", "border-color": "#1d2433" } },
      { selector: "node.labelled", style: {
        label: "data(label)", color: "#1d2433", "text-wrap": "wrap", "z-index": 2,
        "text-background-color": "#f7f8fa", "text-background-opacity": 0.82, "text-background-shape": "round-rectangle",
        "font-family": FONT } },
      { selector: "edge", style: {
        "line-color": "data(color)", width: "data(width)", opacity: dense ? 0.25 : 0.55, "curve-style": "bezier",
        "target-arrow-color": "data(color)", "arrow-scale": 0.8 } },
      ...Object.entries(TYPES).filter(([, type]) => type.arrow).map(([name]) => (
        { selector: `edge.${name}`, style: { "target-arrow-shape": "triangle" } })),
      { selector: "edge.contradicts", style: { "line-style": "dashed", opacity: 0.9 } },
      { selector: ".faded", style: { opacity: 0.08 } },
      { selector: "edge.near", style: { opacity: 0.95 } },
      { selector: "node.chosen", style: { "border-width": 5, "border-style": "solid", "border-color": "#0b62d6" } },
      { selector: "node.found", style: { "border-width": 5, "border-style": "solid", "border-color": "#0b62d6" } },
      { selector: ".hidden", style: { display: "none" } },
    ],
    minZoom: 0.05,
    maxZoom: 4,
    boxSelectionEnabled: false,
  });

  const pen = document.createElement("canvas").getContext("2d");
  // As the canvas will break it into lines.
  function measure(text, pixels) {
    pen.font = `${pixels}px ${FONT}`;
    const lines = [];
    for (const word of text.split(" ")) {
      const longer = lines.length ? `${lines[lines.length - 1]} ${word}` : word;
      if (lines.length && pen.measureText(longer).width <= LABEL_WIDTH) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return {
      width: Math.max(...lines.map((line) => pen.measureText(line).width)) + 4,
      height: lines.length * pixels * 1.2 + 3,
    };
  }

  const SIDES = [["center", "bottom"], ["right", "center"], ["left", "center"], ["center", "top"]];
  function boxAt([across, along], disc, size) {
    const x = (disc.left + disc.right) / 2;
    const y = (disc.top + disc.bottom) / 2;
    const left = across === "center" ? x - size.width / 2 : across === "right" ? disc.right + 2 : disc.left - 2 - size.width;
    const top = along === "center" ? y - size.height / 2 : along === "bottom" ? disc.bottom + 1 : disc.top - 1 - size.height;
    return { left, right: left + size.width, top, bottom: top + size.height };
  }

  // Labels have one size on the screen. The most important items come first; a label goes to the side where it lies
  // on no other and on no item, and where there is none, it waits until somebody comes closer.
  function label() {
    const zoom = cy.zoom();
    const pixels = LABEL_PIXELS * Math.max(1, Math.min(1.3, zoom));
    const width = cy.width();
    const height = cy.height();
    const taken = [...document.querySelectorAll("aside:not([hidden])")].map((aside) => aside.getBoundingClientRect());
    const shown = cy.nodes().filter((node) => node.visible());
    const rank = (node) => node.data("weight") + (node.hasClass("chosen") ? 5000 : 0) + (node.hasClass("found") ? 3000 : 0);
    const order = shown.filter((node) => !node.hasClass("faded")).toArray()
      .sort((a, b) => rank(b) - rank(a) || (a.id() < b.id() ? -1 : 1));
    const discs = order.map((node) => {
      const at = node.renderedPosition();
      const radius = node.renderedOuterWidth() / 2;
      return { left: at.x - radius, right: at.x + radius, top: at.y - radius, bottom: at.y + radius };
    });
    const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
    const sides = new Map();
    order.forEach((node, place) => {
      const disc = discs[place];
      if (disc.right < 0 || disc.left > width || disc.bottom < 0 || disc.top > height) return;
      const size = measure(node.data("label"), pixels);
      const free = SIDES.find((side) => {
        const box = boxAt(side, disc, size);
        return box.left >= 0 && box.right <= width && box.top >= 0 && box.bottom <= height
          && taken.every((other) => apart(box, other))
          && discs.every((other, index) => index === place || apart(box, other));
      }) || (place === 0 ? SIDES[0] : undefined);
      if (!free) return;
      taken.push(boxAt(free, disc, size));
      sides.set(node.id(), free);
    });
    cy.batch(() => {
      shown.forEach((node) => {
        const side = sides.get(node.id());
        node.toggleClass("labelled", side !== undefined);
        if (side === undefined) return;
        node.style({
          "font-size": pixels / zoom, "text-max-width": LABEL_WIDTH / zoom,
          "text-halign": side[0], "text-valign": side[1],
          "text-margin-x": side[0] === "center" ? 0 : (side[0] === "right" ? 3 : -3) / zoom,
          "text-margin-y": side[1] === "center" ? 0 : (side[1] === "bottom" ? 2 : -2) / zoom,
        });
      });
    });
  }
  let waiting = 0;
  function labelSoon() {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(label);
  }

  // Beside the legend, and beside the open item.
  function fit(what) {
    const shown = what || cy.elements().filter((one) => one.visible());
    if (shown.empty()) return;
    const legend = document.getElementById("legend").offsetWidth + 24;
    const panel = document.getElementById("item");
    const right = panel.hidden || innerWidth <= 760 ? 0 : panel.offsetWidth + 12;
    const left = innerWidth <= 760 ? 0 : legend;
    const box = shown.boundingBox({ includeLabels: false });
    const wide = Math.max(100, cy.width() - left - right - 2 * MARGIN);
    const high = Math.max(100, cy.height() - 2 * MARGIN);
    const zoom = Math.min(wide / Math.max(1, box.w), high / Math.max(1, box.h), 1.6);
    cy.viewport({
      zoom,
      pan: {
        x: left + MARGIN + wide / 2 - zoom * (box.x1 + box.x2) / 2,
        y: MARGIN + high / 2 - zoom * (box.y1 + box.y2) / 2,
      },
    });
  }

  // Screens are wide, and so are labels; the layout fills a square.
  function widen() {
    const box = cy.nodes().boundingBox({ includeLabels: false });
    const wanted = (cy.width() - 280) / Math.max(1, cy.height());
    const factor = Math.min(2, Math.max(1, wanted / Math.max(0.1, box.w / Math.max(1, box.h))));
    cy.nodes().positions((node) => ({ x: node.position("x") * factor, y: node.position("y") }));
  }

  function close() {
    cy.elements().removeClass("faded near chosen");
    document.getElementById("item").hidden = true;
    if (location.hash) history.replaceState(null, "", location.pathname + location.search);
    labelSoon();
  }

  function show(id) {
    const item = items.get(id);
    const node = cy.getElementById(id);
    if (!item || node.empty()) return;
    const near = node.closedNeighborhood();
    cy.batch(() => {
      cy.elements().removeClass("near chosen").addClass("faded");
      near.removeClass("faded");
      near.edges().addClass("near");
      node.addClass("chosen");
    });
    const panel = document.getElementById("item");
    const badges = [plain(item.knowledge_type), plain(item.validation_status), item.category, item.project_context,
      `importance ${item.importance_score}`, item.created_at.slice(0, 10)].filter(Boolean);
    const related = node.connectedEdges().filter((edge) => edge.visible()).toArray()
      .sort((a, b) => b.data("strength") - a.data("strength"))
      .map((edge) => {
        const outgoing = edge.data("source") === id;
        const other = outgoing ? edge.data("target") : edge.data("source");
        const type = edge.data("type");
        const how = element("span", { className: "how" }, outgoing ? plain(type) : BACKWARDS[type] || plain(type));
        how.style.color = edge.data("color");
        const button = element("button", { className: "related", type: "button" }, how,
          element("span", {}, items.get(other).title));
        button.addEventListener("click", () => { show(other); centre(other); });
        return button;
      });
    const closing = element("button", { id: "close", type: "button", title: "Close (Esc)" }, "×");
    closing.addEventListener("click", close);
    panel.replaceChildren(
      closing,
      element("h1", {}, item.title),
      element("div", {}, ...badges.map((badge) => element("span", { className: "badge" }, badge))),
      element("p", { className: "text" }, item.content),
      ...(item.retrieval_triggers && item.retrieval_triggers.length
        ? [element("p", { className: "meta" }, "found by: " + item.retrieval_triggers.join(", "))] : []),
      element("h2", {}, `Related (${related.length})`),
      ...related,
      element("p", { className: "meta" }, id),
    );
    panel.hidden = false;
    panel.scrollTop = 0;
    history.replaceState(null, "", "#" + id);
    labelSoon();
  }

  function centre(id) {
    const node = cy.getElementById(id);
    if (node.nonempty()) fit(node.closedNeighborhood());
  }

  function filter() {
    const wanted = new Set([...document.querySelectorAll("#types input:checked")].map((box) => box.value));
    cy.batch(() => {
      cy.edges().forEach((edge) => edge.toggleClass("hidden", !wanted.has(edge.data("type"))));
      cy.nodes().forEach((node) => {
        const all = node.connectedEdges();
        const left = all.filter((edge) => !edge.hasClass("hidden"));
        node.toggleClass("hidden", all.nonempty() && left.empty() && node.id() !== middle);
      });
    });
    labelSoon();
  }

  function find(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    cy.batch(() => {
      cy.elements().removeClass("found faded near chosen");
      if (words.length === 0) return;
      cy.elements().addClass("faded");
      cy.nodes().forEach((node) => {
        const item = items.get(node.id());
        const told = [item.title, item.content, ...(item.retrieval_triggers || [])].join("\n").toLowerCase();
        if (words.every((word) => told.includes(word))) node.removeClass("faded").addClass("found");
      });
    });
    labelSoon();
  }

  // Legend
  const countOf = (values) => values.reduce((counts, one) => counts.set(one, (counts.get(one) || 0) + 1), new Map());
  const used = countOf(data.relationships.map((one) => one.relationship_type));
  for (const [name, type] of Object.entries(TYPES)) {
    if (!used.has(name)) continue;
    const box = element("input", { type: "checkbox", value: name, checked: true });
    box.addEventListener("change", filter);
    const stroke = element("span", { className: type.dashed ? "stroke dashed" : "stroke" });
    stroke.style.borderColor = type.color;
    document.getElementById("types").append(
      element("label", {}, box, stroke, plain(name), element("span", { className: "count" }, String(used.get(name)))));
  }
  const kinds = countOf(data.items.map((item) => item.knowledge_type));
  for (const [name, color] of Object.entries(KINDS)) {
    if (!kinds.has(name)) continue;
    const dot = element("span", { className: "dot" });
    dot.style.background = color;
    document.getElementById("kinds").append(
      element("div", { className: "kind" }, dot, plain(name), element("span", { className: "count" }, String(kinds.get(name)))));
  }
  document.getElementById("counts").textContent = `${data.items.length} items, ${data.relationships.length} relationships`
    + (data.left_out ? `; ${data.left_out} weaker ones are left out` : "");

  const search = document.getElementById("find");
  search.addEventListener("input", () => find(search.value));
  document.getElementById("fit").addEventListener("click", () => fit());
  addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      search.value = "";
      find("");
      close();
      fit();
    } else if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });
  cy.on("tap", "node", (event) => show(event.target.id()));
  cy.on("tap", (event) => { if (event.target === cy) close(); });
  cy.on("zoom pan dragfree", labelSoon);
  addEventListener("resize", () => {
    const chosen = cy.nodes(".chosen");
    cy.resize();
    fit(chosen.nonempty() ? chosen.closedNeighborhood() : undefined);
    label();
  });

  const random = Math.random;
  Math.random = seeded(1);
  const layout = cy.layout({
    name: "fcose",
    quality: "proof",
    animate: false,
    fit: false,
    nodeSeparation: 120,
    nodeRepulsion: (node) => 9000 + 160 * node.data("size"),
    idealEdgeLength: (edge) => (dense ? 210 : 100) + 60 * (1 - edge.data("strength")),
    edgeElasticity: () => (dense ? 0.08 : 0.4),
    gravity: 0.22,
    numIter: 4000,
    tile: true,
  });
  layout.one("layoutstop", () => {
    Math.random = random;
    widen();
    fit();
    const asked = decodeURIComponent(location.hash.slice(1));
    if (items.has(asked)) {
      show(asked);
      centre(asked);
    }
    label();
    document.documentElement.dataset.drawn = "yes";
  });
  layout.run();
})();
