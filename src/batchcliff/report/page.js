"use strict";
(function () {
  const specs = JSON.parse(document.getElementById("chart-data").textContent);
  const tip = document.getElementById("tip");

  // Our own tooltip: text only, and placed through the CSSOM, as the policy demands.
  function tooltip(handler, event, item, value) {
    if (value === null || value === undefined || value === "" || !event) {
      tip.hidden = true;
      return;
    }
    tip.replaceChildren();
    for (const [key, text] of Object.entries(value)) {
      const row = document.createElement("div");
      const name = document.createElement("span");
      name.textContent = key + " ";
      const shown = document.createElement("bdi");
      shown.textContent = String(text);
      row.append(name, shown);
      tip.append(row);
    }
    tip.hidden = false;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(event.clientX + 12, room)) + "px";
    tip.style.top = event.clientY + 14 + "px";
  }

  const options = {
    mode: "vega-lite", ast: true, renderer: "svg", actions: false, defaultStyle: false,
    tooltip: tooltip,
  };

  function draw(place) {
    if (place.dataset.state) return;
    place.dataset.state = "drawing";
    const frame = place.querySelector(".canvas");
    vegaEmbed(frame, specs[place.id], options).then(
      function () { place.dataset.state = "drawn"; },
      function (error) {
        place.dataset.state = "failed";
        frame.textContent = "This chart could not be drawn; the picture beside this page has it.";
        console.error(error);
      }
    );
  }

  for (const place of document.querySelectorAll(".chart")) {
    const fold = place.closest("details");
    if (fold && !fold.open) {
      fold.addEventListener("toggle", function () { if (fold.open) draw(place); });
    } else {
      draw(place);
    }
  }
  window.addEventListener("beforeprint", function () {
    for (const fold of document.querySelectorAll("details")) fold.open = true;
  });
})();
