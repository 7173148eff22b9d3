"""`ray job submit -- python jobs/evaluate.py DIR --gold GOLD`: `el4ner evaluate` on a cluster, beside its storage."""

import sys

from el4ner_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
