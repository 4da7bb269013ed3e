"""Training of the shipped potentials: reference frames, where they come from, and how a potential is fitted."""
