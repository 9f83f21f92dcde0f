// Where the data comes from: compressed blocks in this page, or the server that this page came from.

const SERVED = document.documentElement.dataset.served !== undefined;
const KEPT = 12; // blocks that stay decoded

async function unpacked(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** The text of a block. While the page is still being read a block may not be there yet, or in part. */
async function embedded(id) {
  for (;;) {
    const loading = document.readyState === "loading";
    const found = document.getElementById(id);
    if (found && (found.nextSibling || !loading)) return found.textContent;
    if (!loading) throw new Error(`this file lacks its block ${id}: it is not whole`);
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
}

async function fetched(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`the server says ${answer.status}: ${(await answer.text()).slice(0, 300)}`);
  return answer.json();
}

/** The columns of the list, and what all trajectories share. */
export async function loadIndex() {
  return SERVED ? fetched("index") : unpacked(await embedded("index"));
}

const blocks = new Map();

function block(name) {
  if (blocks.has(name)) {
    const found = blocks.get(name);
    blocks.delete(name);
    blocks.set(name, found); // the least recently used is the first
    return found;
  }
  const coming = SERVED ? fetched(`block/${name}`) : embedded(`block-${name}`).then(unpacked);
  blocks.set(name, coming);
  coming.catch(() => blocks.delete(name));
  if (blocks.size > KEPT) blocks.delete(blocks.keys().next().value);
  return coming;
}

/** One trajectory of the list, whole. */
export async function loadTrajectory(index, row) {
  const held = await block(index.columns.block[row]);
  return held[index.columns.place[row]];
}
