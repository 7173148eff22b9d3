"""The method as pure functions. Nothing here imports ray, torch or vllm."""
