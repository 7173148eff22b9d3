"""`cluster.yaml` is what Ray's own schema says a cluster file is."""

import yaml
from ray.autoscaler._private.util import validate_config

from tests.conftest import ROOT


def test_cluster_file_is_valid() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))
    validate_config(config)
    assert config["available_node_types"][config["head_node_type"]]["resources"] == {"CPU": 0}
    assert all("--dashboard-host=127.0.0.1" in c for c in config["head_start_ray_commands"] if "--head" in c)
