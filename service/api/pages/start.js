"use strict";

for (const place of document.querySelectorAll(".origin")) place.textContent = location.origin;

function cell(row, text, href) {
  const td = row.insertCell();
  if (href === undefined) { td.textContent = text; return; }
  const link = document.createElement("a");
  link.href = href;
  link.textContent = text;
  td.append(link);
}

function show(job, body) {
  const row = body.insertRow();
  const address = "/v1/jobs/" + job.id;
  cell(row, job.name || job.id, address);
  cell(row, job.kind);
  cell(row, job.model);
  cell(row, job.error ? job.state + ": " + job.error.detail : job.state);
  cell(row, job.progress.step + " / " + job.progress.n_steps);
  cell(row, job.progress.n_done + " / " + job.progress.n_systems);
  cell(row, job.created_at.replace("T", " ").slice(0, 19));
  cell(row, "trajectory", address + "/trajectory?format=extxyz");
}

async function refresh() {
  const note = document.getElementById("note");
  try {
    const answer = await fetch("/v1/jobs?page_size=50");
    const list = await answer.json();
    const body = document.createElement("tbody");
    for (const job of list.items) show(job, body);
    document.querySelector("#jobs tbody").replaceWith(body);
    note.textContent = list.items.length ? "" : "No jobs yet.";
  } catch (error) {
    note.textContent = "The service does not answer.";
  }
}

refresh();
setInterval(refresh, 3000);
