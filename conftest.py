"""One plugin runs the pages, holds the records, and adds --device and --update-evidence."""

import os

# Small networks: a second thread waits more than it computes, above all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["cnn_site.runner"]
# Scripts: importing them would run them.
collect_ignore_glob = ["docs/tutorials/*", "snippets/*"]
