"""LAYER 3: what is done with forces: relaxation, molecular dynamics, trajectories, checkpoints."""

if __name__ != "equipot.simulation":
    raise ImportError("import equipot.simulation: under the name 'simulation' every class would exist twice")
