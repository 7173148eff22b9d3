"""`ray job submit -- python jobs/build_index.py POOL --output DIR`: `el4ner index` on a cluster."""

import sys

from el4ner_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "index")
    main()
