"""`cluster.yaml` is what Ray's own schema says a cluster file is."""

import yaml
from ray.autoscaler._private.util import fillout_defaults, validate_config

from tests.conftest import ROOT


def test_cluster_file_is_valid() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    # What `ray up` checks: the file with the provider's defaults filled in.
    validate_config(fillout_defaults(config) | {"cluster_synced_files": []})
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"] if "--head" in c)
