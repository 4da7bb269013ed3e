"""LAYER 4: jobs: HTTP API, queue, worker, client, command line."""

if __name__ != "equipot.service":
    raise ImportError("import equipot.service: under the name 'service' every class would exist twice")
