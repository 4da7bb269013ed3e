"""Many molecules at once: every one gets its verdict, and one that cannot be computed stops no other."""

from ase.build import molecule

from equipot import relax

names = ["CH3OH", "CH3CH2OH", "CH3COOH", "C6H6", "H2CO", "HCOOH", "SiH4"]
structures = []
for name in names:
    for seed in range(3):
        structures.append(molecule(name))
        structures[-1].info["name"] = f"{name}-{seed}"
        structures[-1].rattle(0.1, seed=seed)

results = relax(structures, "organic", fmax_ev_per_ang=0.05, optimizer="lbfgs")
for result in results:
    if result.outcome == "rejected":
        print(structures[result.system_idx].info["name"], "->", result.reason)
good = [result for result in results if result.converged]
print(f"{len(good)} of {len(results)} converged, in {max(result.n_steps for result in good)} steps at most")
assert len(good) == 18  # silane is not for this potential
