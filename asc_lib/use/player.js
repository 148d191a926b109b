// A picture with a time axis, a player of its sound, and a line where the sound is.
export default {
  render({ model, el }) {
    const audio = Object.assign(document.createElement("audio"), { controls: true });
    const image = Object.assign(document.createElement("img"), { className: "asc-picture" });
    const line = Object.assign(document.createElement("div"), { className: "asc-line" });
    const box = document.createElement("div");
    box.style.cssText = "position: relative; width: max-content; max-width: 100%; overflow: hidden";
    image.style.cssText = "display: block; max-width: 100%";
    line.style.cssText = "position: absolute; top: 0; bottom: 0; border-left: 2px solid #d55e00";
    box.append(image, line);
    el.append(audio, box);

    const show = (node, name, type) => {
      const bytes = model.get(name);
      URL.revokeObjectURL(node.src);
      node.src = bytes.byteLength ? URL.createObjectURL(new Blob([bytes], { type })) : "";
      el.style.display = model.get("picture").byteLength ? "" : "none";
    };
    const move = () => {
      const [zero, second] = model.get("axis");
      line.style.left = `${100 * (zero + second * audio.currentTime)}%`;
      if (!audio.paused) requestAnimationFrame(move);
    };
    const follow = {
      "change:picture": () => show(image, "picture", "image/png"),
      "change:sound": () => show(audio, "sound", "audio/wav"),
      "change:axis": move,
    };
    for (const [change, react] of Object.entries(follow)) {
      model.on(change, react);
      react();
    }
    for (const event of ["play", "seeked"]) audio.addEventListener(event, move);
    return () => Object.entries(follow).forEach(([change, react]) => model.off(change, react));
  },
};
