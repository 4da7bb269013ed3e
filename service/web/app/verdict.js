// How a job went, in words that a person would use.
import { count, duration, ENDED, fixed, number, plural, simulated } from "./format.js";

const OUTCOMES = {
  converged: "converged", completed: "completed", max_steps: "used up their steps without converging", guard_stopped: "were stopped by a guard",
  diverged: "diverged", rejected: "were rejected", cancelled: "were cancelled", failed: "failed",
};

/** {tone, title, text} for a job; `system` is its only system's result if there is one, `rows` its time series. */
export function verdict(job, system, rows) {
  const { progress } = job;
  if (job.state === "queued") return { tone: "wait", title: "Waiting", text: job.queue_position > 1 ? `${plural(job.queue_position - 1, "job")} ahead of this one.` : "Next in the queue." };
  if (job.state === "starting") return { tone: "wait", title: "Starting", text: "A worker is loading the potential." };
  if (job.state === "cancelling") return { tone: "wait", title: "Cancelling", text: "The worker stops at the next step; what was computed is kept." };
  if (!ENDED.has(job.state)) return { tone: "run", title: "Running", text: running(job, rows) };
  if (job.error) return { tone: "bad", title: "Failed", text: `${job.error.detail} ${job.error.hint ?? ""}`.trim() };
  if (job.state === "cancelled") return { tone: "off", title: "Cancelled", text: `Stopped at step ${count(progress.step)} of ${count(progress.n_steps)} on request. What was computed is kept, and it can go on.` };
  if (progress.n_systems > 1) return ofMany(job);
  return system ? ofOne(job, system, rows) : { tone: "wait", title: "Ended", text: "Its result is being fetched." };
}

function running(job, rows) {
  const { step, n_steps, n_systems, n_done } = job.progress;
  const seconds = (Date.now() - Date.parse(job.started_at)) / 1000;
  if (n_systems > 1) return `${count(n_done)} of ${plural(n_systems, "system")} done.`;
  if (job.kind === "md" && step > 20) {
    const time = job.params.timestep_fs;
    return `Step ${count(step)} of ${count(n_steps)}, ${simulated(step * time)} of ${simulated(n_steps * time)}. About ${duration((seconds / step) * (n_steps - step))} to go.`;
  }
  const last = rows?.at(-1);
  if (job.kind === "relax" && last) return `Step ${count(last.step)}; the largest force is ${number(last.generalised_force_ev_per_ang ?? last.fmax_ev_per_ang, 3)} eV/Å, wanted below ${number(job.params.fmax_ev_per_ang)}.`;
  return `Step ${count(step)} of ${count(n_steps)}.`;
}

function ofOne(job, system, rows) {
  const { n_steps: steps, outcome } = system;
  const force = system.generalised_force_ev_per_ang ?? system.fmax_ev_per_ang;
  const energy = `The energy is ${fixed(system.energy_ev, 4)} eV`;
  const fall = rows?.length > 1 && rows[0].step === 0 ? `, ${fixed((rows[0].energy_ev - system.energy_ev) * 1000, 1)} meV below the start` : "";
  const place = system.space_group ? ` The space group is ${system.space_group}.` : "";
  if (outcome === "converged") return { tone: "good", title: `Converged after ${plural(steps, "step")}`, text: `The largest force is ${number(force, 3)} eV/Å, below the threshold of ${number(job.params.fmax_ev_per_ang)}. ${energy}${fall}.${place}` };
  if (outcome === "max_steps") return { tone: "warn", title: "Not converged", text: `All ${plural(steps, "step")} were used up; the largest force is still ${number(force, 3)} eV/Å and was wanted below ${number(job.params.fmax_ev_per_ang)}. Relax further from here, or try the other optimiser.` };
  if (outcome === "completed" && job.kind === "md") return { tone: "good", title: `Completed ${simulated(system.time_fs)}`, text: dynamics(job, system, rows) };
  if (outcome === "completed") return { tone: "good", title: "Computed", text: `${energy}; the largest force is ${number(system.fmax_ev_per_ang, 3)} eV/Å.` };
  const why = system.guard ? `${system.guard.name.replaceAll("_", " ")} was ${number(system.guard.value, 3)}, beyond the limit of ${number(system.guard.limit, 3)}, at step ${count(system.guard.step)}. ` : "";
  const title = { guard_stopped: "Stopped by a guard", diverged: "Diverged", rejected: "Rejected", failed: "Failed" }[outcome] ?? outcome;
  return { tone: "bad", title, text: `${why}${system.reason?.detail ?? system.error?.detail ?? ""} ${system.reason?.hint ?? system.error?.hint ?? ""}`.trim() };
}

function dynamics(job, system, rows) {
  const half = (rows ?? []).slice(Math.floor((rows?.length ?? 0) / 2)).map((row) => row.temperature_k).filter(Number.isFinite);
  const mean = half.reduce((sum, value) => sum + value, 0) / half.length;
  const spread = Math.sqrt(half.reduce((sum, value) => sum + (value - mean) ** 2, 0) / half.length);
  const warm = half.length > 4 ? `In its second half the temperature was ${fixed(mean, 0)} K and fluctuated by ${fixed(spread, 0)} K. ` : "";
  return `${plural(system.n_steps, "step")} of ${number(job.params.timestep_fs)} fs. ${warm}The last energy is ${fixed(system.energy_ev, 4)} eV.`;
}

function ofMany(job) {
  const good = (job.outcomes.converged ?? 0) + (job.outcomes.completed ?? 0);
  const rest = Object.entries(job.outcomes).filter(([name]) => !["converged", "completed"].includes(name)).map(([name, n]) => `${count(n)} ${OUTCOMES[name] ?? name}`);
  const what = job.kind === "relax" ? "converged" : "completed";
  const title = rest.length ? `${count(good)} of ${count(job.progress.n_systems)} ${what}` : `All ${count(good)} ${what}`;
  return { tone: job.state === "failed" ? "bad" : rest.length ? "warn" : "good", title, text: rest.length ? `${rest.join("; ")}. They stand first in the table.` : "" };
}
