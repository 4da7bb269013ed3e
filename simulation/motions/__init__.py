"""How a system moves: one module for each optimiser and integrator, on the common ground of `base`."""
