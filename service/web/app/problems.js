// A problem of the server in words: what is wrong, where, and what to do.
import { h, icon } from "./dom.js";

/** A box for a Problem; `errors` are those that belong nowhere else (all of them if not given). */
export function problemBox(problem, errors = problem.errors ?? []) {
  const list = errors.filter((one) => one.message && !problem.message.includes(one.message));
  return h("div", { class: "problem", role: "alert" }, icon("warn"),
    h("div", {}, h("p", { class: "problem-title" }, problem.title || "Something went wrong"), h("p", {}, problem.message),
      list.length ? h("ul", {}, list.slice(0, 6).map((one) => h("li", {}, one.pointer && h("code", {}, one.pointer), " ", one.message, " ", one.hint))) : null,
      problem.hint && h("p", { class: "hint" }, problem.hint),
      problem.code && problem.status !== 0 && h("p", { class: "quiet" }, h("a", { href: `/problems/${problem.code}`, target: "_blank", rel: "noopener" }, "What this means"), problem.status >= 500 && problem.requestId ? ` · request ${problem.requestId}` : "")));
}
