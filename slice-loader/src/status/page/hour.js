// An hour of traffic for pictures: steady senders, one that comes and goes, one that is capped.
(() => {
  const now = Date.now();
  tasks.find((task) => task.path === "/v1/links").take = () => {};
  byId("span").value = "60";
  for (const [name, link] of links) {
    const { rate, rows } = link.link;
    const sent = new Map(rows.map((row) => [row.owner.id, 0]));
    Object.assign(link, { samples: [], before: null });
    for (let step = 0; step <= 240; step += 1) {
      for (const row of rows) {
        const id = row.owner.id;
        const base = rate / 60 * (1 + id * 5 % 7);
        const wave = 1 + 0.35 * Math.sin(step / (9 + id) + id * 2) + 0.08 * Math.sin(step * 1.7 + id);
        const on = id === 3 ? step % 90 > 35 : id === 6 ? step > 120 : true;
        sent.set(id, sent.get(id) + (on ? base * wave : base * 0.05) * 15 / 8);
      }
      link.take(now / 1000 - (240 - step) * 15, { name, rate, there: true, rows: rows.map((row) => ({ ...row, sent_bytes: sent.get(row.owner.id) })) });
    }
  }
})();
