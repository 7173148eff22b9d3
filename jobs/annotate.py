"""`ray job submit -- python jobs/annotate.py INPUT... --pool POOL --output DIR`: `el4ner annotate` on a cluster."""

import sys

from el4ner_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "annotate")
    main()
