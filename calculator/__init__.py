"""LAYER 2: ASE Atoms in, ASE numbers out."""

if __name__ != "equipot.calculator":
    raise ImportError("import equipot.calculator: under the name 'calculator' every class would exist twice")
