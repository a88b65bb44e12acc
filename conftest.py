"""One plugin runs the pages, holds the records, and adds --device and --update-evidence."""

import os
import signal

# Small networks: a second thread waits more than it computes, above all beside other work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# nohup ignores SIGHUP and a shell's background SIGINT, and child processes inherit that: the
# kill tests need the defaults.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["cnn_site.runner"]
# Scripts: importing them would run them.
collect_ignore_glob = ["docs/tutorials/*", "snippets/*"]
