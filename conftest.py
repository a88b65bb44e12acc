"""One plugin runs the pages, holds the records, and adds --device and --update-evidence."""

pytest_plugins = ["cnn_site.runner"]
collect_ignore_glob = [
    "docs/tutorials/*",
    "snippets/*",
]  # scripts: importing them would run them
