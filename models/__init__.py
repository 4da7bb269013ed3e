"""LAYER 1: what the potential is and how it is trained. torch. Knows no ASE object, no job."""

if __name__ != "equipot.models":
    raise ImportError("import equipot.models: under the name 'models' every class would exist twice")
